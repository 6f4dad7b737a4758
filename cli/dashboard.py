"""rq-dashboard on this stack's Redis."""

from __future__ import annotations

from redis import Redis
from rq import Worker
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq_dashboard import web
from rq_dashboard.cli import make_flask_app

from cli import console
from shared.redis import connect, require
from shared.settings import Settings


class _JsonWorker(Worker):
    """rq-dashboard lists workers as if jobs were pickled, and fails while one runs."""

    @classmethod
    def all(cls, connection: Redis) -> list[BaseWorker]:  # type: ignore[override]  # as it is called
        return super().all(connection=connection, serializer=JSONSerializer)


def serve(settings: Settings) -> None:
    """Serve the dashboard until interrupted. Flask's own server is how rq-dashboard runs.

    Raises:
        RedisUnavailableError: there is nothing to show.
    """
    with connect(settings, "dashboard") as redis:
        require(redis, settings)
    app = make_flask_app(config=None, username=None, password=None, url_prefix="")
    app.config["RQ_DASHBOARD_REDIS_URL"] = settings.effective_redis_url
    app.config["DEPRECATED_OPTIONS"] = []  # its pages read this; only its own command sets it
    web.config.serializer = JSONSerializer
    web.Worker = _JsonWorker
    web.setup_rq_connection(app)
    console.say(f"Dashboard: http://127.0.0.1:{settings.dashboard_port}  (Ctrl-C stops it)")
    app.run(host="127.0.0.1", port=settings.dashboard_port)
