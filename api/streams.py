"""Streamed responses, as server-sent events or as bare text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from sse_starlette.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from api.context import send_behind
from api.errors import StoppingError, failure
from api.feed import PAGE, Feed
from api.heartbeat import Heartbeat
from api.open_streams import OpenStreams
from api.shortcut import Shortcut, Shorten
from api.sse import Last, frame, json_frame, pieces
from shared.errors import MiniVaultError
from shared.events import AnyEvent, Failed, is_terminal, text_of
from shared.logging import get_logger

EVENT_STREAM: Final = "text/event-stream"
PLAIN_TEXT: Final = "text/plain"
_PING: Final = b": ping\r\n\r\n"

log = get_logger()


class _CutError(Exception):
    """The transfer can't be completed, and the client must not take it for complete."""


class StreamResponse(EventSourceResponse):
    """sse-starlette's response, for both media types, sent at less cost.

    sse-starlette runs four tasks for each stream: one sends, one pings, one waits for the process
    to stop, one for the client to leave. Here the request's own task sends, when all other layers
    have returned (`api.context`), a timer pings, the process cuts its streams when it has to, and
    one task waits for the client to leave. A client that does not read is `api.connection`'s
    business. A failure behind the headers breaks the transfer off, which HTTP clients report.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes],
        streams: OpenStreams,
        *,
        media_type: str = EVENT_STREAM,
        ping: bytes = _PING,
        shortcut: Shortcut | None = None,
    ) -> None:
        """`content` is sent piece by piece, as it is; in a stream of events `ping` in silence.

        `shortcut` is one past `content`, for the feed that it reads.
        """
        super().__init__(content, media_type=media_type)
        self._content = content
        self._streams = streams
        self._ping_bytes = ping if media_type == EVENT_STREAM else b""
        self._shortcut = shortcut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's)
        status, headers = self.status_code, self.raw_headers
        shorten = self._shortcut.through(scope) if self._shortcut else None
        send_behind(scope, _Body(self._content, self._streams, self._ping_bytes, shorten).send)
        await send({"type": "http.response.start", "status": status, "headers": headers})


class _Body:
    """What is there for as long as a stream is open."""

    __slots__ = ("_content", "_ping", "_shorten", "_streams")

    def __init__(
        self,
        content: AsyncGenerator[bytes],
        streams: OpenStreams,
        ping: bytes,
        shorten: Shorten | None,
    ) -> None:
        self._content = content
        self._streams = streams
        self._ping = ping
        self._shorten = shorten

    async def send(self, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._content), asyncio.timeout(None) as limit:

                def cut() -> None:
                    if not limit.expired():
                        limit.reschedule(0)

                self._streams.add(cut)
                leaving = asyncio.create_task(_leave(receive, cut))
                try:
                    await self._send(send)
                finally:
                    leaving.cancel()
                    self._streams.discard(cut)
        except TimeoutError:
            if not limit.expired():
                raise
        except _CutError as error:
            log.warning("stream broken off", reason=str(error))

    async def _send(self, send: Send) -> None:
        if not self._ping:
            await self._send_all(send, lambda: None)
            return
        with Heartbeat(send, self._ping, self._streams.ping_seconds) as heartbeat:
            if self._shorten is not None:
                self._shorten(heartbeat.note)
            await self._send_all(send, heartbeat.note)

    async def _send_all(self, send: Send, note: Callable[[], None]) -> None:
        more = True
        async for piece in self._content:
            note()
            more = not isinstance(piece, Last)
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _leave(receive: Receive, cut: Callable[[], None]) -> None:
    """Cut a stream when its client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    cut()


async def frames(feed: Feed) -> AsyncGenerator[bytes]:
    """A feed as server-sent events, several to a piece where several are there.

    What ends the stream but not the job has no number: the client may resume behind the last.
    """
    try:
        async for events in feed.batches():
            end = is_terminal(events[-1]) and len(events) < PAGE
            for piece in pieces(map(frame, events), end=end):
                yield piece
    except StoppingError:
        return
    except MiniVaultError as error:
        yield Last(_farewell(error))


async def farewell(error: MiniVaultError) -> AsyncGenerator[bytes]:
    """A stream that has to end before it began."""
    yield Last(_farewell(error))


def _farewell(error: MiniVaultError) -> bytes:
    return json_frame({"code": error.code, "message": error.detail}, event="error")


async def text(feed: Feed) -> AsyncGenerator[bytes]:
    """A feed as bare UTF-8 text.

    Returns once the first text is there, so that a job that fails before it gets a status
    and a problem document of its own.

    Raises:
        MiniVaultError: the job failed before its first text.
    """
    texts = _texts(feed)
    first = await anext(texts, b"")
    return broken_off(first, texts)


async def _texts(feed: Feed) -> AsyncGenerator[bytes]:
    last: AnyEvent | None = None
    async for events in feed.batches():
        last = events[-1]
        for added in pieces(text_of(event).encode() for event in events):
            if added:
                yield added
    if isinstance(last, Failed):  # else the job was put back
        raise failure(last)


async def broken_off(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """What a response goes on with behind its headers: a failure can only break it off."""
    yield first
    try:
        async for chunk in rest:
            yield chunk
    except MiniVaultError as error:
        raise _CutError(error.code) from error
