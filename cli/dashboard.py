"""rq-dashboard on this stack's Redis."""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Callable
from typing import Final

import waitress
from redis import Redis
from rq import Worker
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq_dashboard import web
from rq_dashboard.cli import make_flask_app

from cli import console
from shared.errors import SettingsError
from shared.listen import listen
from shared.redis import connect, require
from shared.secret import read_secret
from shared.settings import PREFIX, Settings

USER: Final = "minivault"


class _JsonWorker(Worker):
    """rq-dashboard lists workers as if jobs were pickled, and fails while one runs."""

    @classmethod
    def all(cls, connection: Redis) -> list[BaseWorker]:  # type: ignore[override]  # as it is called
        return super().all(connection=connection, serializer=JSONSerializer)


def serve(settings: Settings, note: Callable[[str], None] = console.note) -> None:
    """Serve the dashboard until interrupted. Not by Flask's own server, which is for developing.

    Raises:
        RedisUnavailableError: there is nothing to show.
        SettingsError: other machines could look, and there is no password.
    """
    password = _password(settings)
    with connect(settings, "dashboard") as redis:
        require(redis, settings)
    app = make_flask_app(
        config=None, username=USER if password else None, password=password, url_prefix=""
    )
    app.config["RQ_DASHBOARD_REDIS_URL"] = settings.effective_redis_url
    app.config["DEPRECATED_OPTIONS"] = []  # its pages read this; only its own command sets it
    web.config.serializer = JSONSerializer
    web.Worker = _JsonWorker
    web.setup_rq_connection(app)
    host, port = settings.dashboard_host, settings.dashboard_port
    with listen(host, port, "DASHBOARD_") as listener:
        note(f"Dashboard: http://{host}:{port}  (Ctrl-C stops it)")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # waitress ends by this only
        waitress.serve(app, sockets=[listener], ident=None)


def _password(settings: Settings) -> str | None:
    if settings.dashboard_password_file is not None:
        return read_secret(settings.dashboard_password_file, f"{PREFIX}DASHBOARD_PASSWORD_FILE")
    try:
        is_private = ipaddress.ip_address(settings.dashboard_host).is_loopback
    except ValueError:
        is_private = settings.dashboard_host == "localhost"
    if not is_private:
        raise SettingsError(
            f"Whoever reaches {settings.dashboard_host} could delete jobs. Set "
            f"{PREFIX}DASHBOARD_PASSWORD_FILE, or leave {PREFIX}DASHBOARD_HOST at 127.0.0.1."
        )
    return None
