"""Bodies that are too large, or come in too slowly, are refused before they are read whole."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import GENERAL, ProblemResponse, problem

_TOO_LARGE: Final = "body_too_large"
_TOO_LATE: Final = "request_timeout"
_CLOSE: Final = {"Connection": "close"}


def too_late() -> ProblemResponse:
    return problem(_TOO_LATE, GENERAL[_TOO_LATE])


class BodyLimit:
    """Holds for declared lengths and for chunked bodies alike.

    The framework's own `max_body_size` answers the first kind in plain text.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await problem(_TOO_LARGE, GENERAL[_TOO_LARGE])(scope, receive, send)
            return
        received = 0
        deadline: float | None = asyncio.get_running_loop().time() + self._seconds

        async def receive_some() -> Message:
            nonlocal received, deadline
            if deadline is None:  # nothing of the body is to come; it waits for the client to leave
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers=_CLOSE) from None
            if not message.get("more_body", False):
                deadline = None
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413)
            return message

        await self._app(scope, receive_some, send)
