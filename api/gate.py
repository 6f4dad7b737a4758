"""What is settled before anything else looks at a request."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import InvalidHttpError, TooManyConnectionsError, UnknownHostError
from api.hosts import Hosts
from api.problems import GENERAL, problem, problem_of
from shared.errors import MiniVaultError
from shared.logging import get_logger
from shared.settings import Settings

METRICS: Final = "/metrics"
_ALIVE: Final = "/healthz"
_INSIDE: Final = {METRICS, _ALIVE, "/readyz"}
"""All that the metrics' own port serves."""
SURPLUS: Final = "surplus"
"""Set in the state of requests whose connection is one too many."""
_SHOWN: Final = 100

log = get_logger()


class Gate:
    """Who is asked, under which name, and whether there is room.

    Where metrics have a port of their own they are on no other, and nothing else is on that.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = Hosts(settings.allowed_hosts, settings.host)
        self._metrics_port = settings.metrics_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if is_inside(scope.get("server"), self._metrics_port):
            is_hidden = scope["path"] not in _INSIDE
        else:
            try:
                self._check(scope)
            except MiniVaultError as error:
                await problem_of(error)(scope, receive, send)
                return
            is_hidden = bool(self._metrics_port) and scope["path"] == METRICS
        if is_hidden:
            await problem("not_found", GENERAL["not_found"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        # To be full is no illness: who asks whether the process lives is told so.
        if scope["state"].get(SURPLUS) and scope["path"] != _ALIVE:
            raise TooManyConnectionsError
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) > 1 or (not hosts and scope["http_version"] != "1.0"):
            raise InvalidHttpError("A request has one Host header.")
        if not self._hosts.allow("".join(hosts)):
            log.warning("unknown host", host="".join(hosts)[:_SHOWN])
            raise UnknownHostError


def is_inside(server: tuple[str, int | None] | None, metrics_port: int) -> bool:
    """Whether a connection came in where the metrics are. `server` is our end of it."""
    return bool(metrics_port) and server is not None and server[1] == metrics_port
