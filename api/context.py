"""The outermost layer: a request's id, its log line, and the last resort for errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import ApiMetrics
from api.problems import problem
from shared.errors import MiniVaultError
from shared.logging import get_logger

HEADER: Final = "X-Request-ID"
ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""For browsers: an answer is no script, and no part of another site's page."""
_PRIVATE: Final = (b"cache-control", b"no-store")
"""Of what has no rule of its own: answers hold prompts."""
_PROBES: Final = {"/healthz", "/metrics", "/readyz"}
"""Asked every few seconds by whoever watches; not worth a line, nor to be counted."""
_SANE: Final = re.compile(r"[A-Za-z0-9._:=+/-]{1,128}")

log = get_logger()


class RequestContext:
    """Gives each request an id that its log lines, its job and its response carry."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _SANE.fullmatch(given) else secrets.token_hex(8)
        reply = MutableHeaders({HEADER: request_id})
        scope["state"] |= {"request_id": request_id, "reply_headers": reply}
        started = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *reply.raw, *ALWAYS]
                if not any(name == _PRIVATE[0] for name, _ in message["headers"]):
                    message["headers"].append(_PRIVATE)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:
                log.exception("unexpected error")
                if not status:
                    answer = problem("internal_error", MiniVaultError().detail)
                    await answer(scope, receive, send_with_headers)
            is_probe = scope["path"] in _PROBES
            if not is_probe:
                self._metrics.answered(scope["method"], status, scope["state"].get("problem"))
            log.log(
                logging.DEBUG if is_probe else logging.INFO,
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.monotonic() - started, 4),
            )


def request_id(request: Request) -> str:
    found: str = request.state.request_id
    return found


def reply_headers(request: Request) -> MutableHeaders:
    """Headers that the response to this request gets, whatever it turns out to be."""
    found: MutableHeaders = request.state.reply_headers
    return found
