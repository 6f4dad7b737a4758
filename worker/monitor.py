"""A worker's own port: what it counts, whether it lives, whether it takes jobs."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import make_wsgi_app

from worker.service import WorkerService

_TIMEOUT_SECONDS: Final = 10
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")


class Monitor:
    """Serves `/metrics`, `/healthz` and `/readyz` from a thread, until the process ends."""

    def __init__(self, listener: socket.socket, service: WorkerService) -> None:
        self._service = service
        self._metrics: Any = make_wsgi_app(service.metrics.registry)
        self._server = _Server(listener)
        self._server.set_app(self._answer)

    def start(self) -> None:
        Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()

    def _answer(
        self, environment: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        match environment["PATH_INFO"]:
            case "/metrics":
                found: Iterable[bytes] = self._metrics(environment, start_response)
                return found
            case "/healthz":
                reason = self._service.ailment()
            case "/readyz":
                reason = self._service.hindrance()
            case path:
                start_response("404 Not Found", [_TEXT])
                return [f"There is no {path} here.\n".encode()]
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        start_response(f"{status.value} {status.phrase}", [_TEXT])
        return [f"{reason or 'ok'}\n".encode()]


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_SECONDS

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        TCPServer.__init__(self, (host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # Not found out by asking a name server, which may not answer.
        self.server_name, self.server_port = host, port
        self.setup_environ()
