"""The outermost layer: a request's id, its log line, and the last resort for errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import METHODS, ApiMetrics
from api.problems import problem
from shared.errors import MiniVaultError
from shared.logging import get_logger
from shared.tracing import Context, Tracing

if TYPE_CHECKING:
    from shared.spans import OpenSpan

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

Rest: TypeAlias = Callable[[Receive, Send], Awaitable[None]]
"""Sends what follows a response's headers."""
_HELD: Final = "held"
_REST: Final = "rest"

log = get_logger()


class RequestContext:
    """Gives each request an id that its log lines, its job and its response carry.

    A stream's body is sent from here, behind all other layers: they would each stand by with
    what they know of the request for as long as the stream is open, a third of its memory.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        request_id = given if _SANE.fullmatch(given) else secrets.token_hex(8)
        reply = MutableHeaders({HEADER: request_id})
        is_probe = scope["path"] in _PROBES
        span = None if is_probe else self._tracing.begin(headers)
        ids = {"request_id": request_id} | ({"trace_id": span.trace_id} if span else {})
        scope["state"] |= {
            "request_id": request_id,
            "reply_headers": reply,
            "trace": span.context if span else {},
        }
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

        with structlog.contextvars.bound_contextvars(**ids):
            try:
                async with AsyncExitStack() as held:
                    scope["state"][_HELD] = held
                    await self._app(scope, receive, send_with_headers)
                    if _REST in scope["state"]:
                        _forget_the_layers(scope)
                        await scope["state"].pop(_REST)(receive, send)
            except Exception:
                log.exception("unexpected error")
                if not status:
                    answer = problem("internal_error", MiniVaultError().detail)
                    await answer(scope, receive, send_with_headers)
            if not is_probe:
                self._metrics.answered(scope["method"], status, scope["state"].get("problem"))
            if span is not None:
                _end(span, scope, request_id, status)
            log.log(
                logging.DEBUG if is_probe else logging.INFO,
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.monotonic() - started, 4),
            )


def _forget_the_layers(scope: Scope) -> None:
    """What FastAPI has left of its own is of no more use."""
    for name in [name for name in scope if name.startswith("fastapi")]:
        del scope[name]


def _end(span: OpenSpan, scope: Scope, request_id: str, status: int) -> None:
    """A stream's, too: it ends when its last byte is sent or its client has left."""
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    route = getattr(scope.get("route"), "path", None)
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    span.end(
        f"{method} {route}" if route else method,
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "minivault.request_id": request_id,
            "minivault.job_id": structlog.contextvars.get_contextvars().get("job_id"),
        },
        error=scope["state"].get("problem", str(status)) if failed else "",
    )


def request_id(request: Request) -> str:
    found: str = request.state.request_id
    return found


def trace(request: Request) -> Context:
    """What the request's job carries, so that its spans go on with this one."""
    found: Context = request.state.trace
    return found


def held(request: Request) -> AsyncExitStack:
    """What is entered here lasts until the response is sent: longer than FastAPI's dependencies."""
    stack: AsyncExitStack = request.state.held
    return stack


def send_behind(scope: Scope, rest: Rest) -> None:
    """Have a response's body sent when all layers have returned; its headers are on the way."""
    scope["state"][_REST] = rest


def reply_headers(request: Request) -> MutableHeaders:
    """Headers that the response to this request gets, whatever it turns out to be."""
    found: MutableHeaders = request.state.reply_headers
    return found
