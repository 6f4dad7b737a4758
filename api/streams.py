"""Streamed responses, as server-sent events or as bare text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import anyio
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from api.errors import StoppingError, failure
from api.feed import Feed
from api.sse import frame, json_frame
from shared.errors import MiniVaultError
from shared.events import Failed, text_of
from shared.logging import get_logger
from shared.settings import Settings

_FORCED_SECONDS: Final = 0.75
"""Before a stopping server's limit, streams end that did not end when they were asked to: half a
second is how long sse-starlette may take to notice the stop."""
EVENT_STREAM: Final = "text/event-stream"
PLAIN_TEXT: Final = "text/plain"

log = get_logger()


class _CutError(Exception):
    """The transfer can't be completed, and the client must not take it for complete."""


class StreamResponse(EventSourceResponse):
    """sse-starlette's response, for both media types: it sends bytes as they are.

    So bare text gets the same care: disconnects, shutdown, no buffering. A client that does not
    read is `api.connection`'s business. A failure behind the headers breaks the transfer off,
    which HTTP clients report.
    """

    def __init__(
        self,
        content: AsyncIterator[ServerSentEvent] | AsyncIterator[bytes],
        settings: Settings,
        *,
        media_type: str = EVENT_STREAM,
        ping: bytes | None = None,
    ) -> None:
        """`ping` is what is sent in silence; None: sse-starlette's comment."""
        super().__init__(
            content,
            media_type=media_type,
            ping_message_factory=None if ping is None else lambda: ping,  # type: ignore[arg-type,return-value]  # it takes bytes too
            ping=settings.ping_seconds if media_type == EVENT_STREAM else 0,
            shutdown_event=anyio.Event(),
            shutdown_grace_period=max(0.0, settings.shutdown_grace - _FORCED_SECONDS),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _CutError as error:
            log.warning("stream broken off", reason=str(error))


async def frames(feed: Feed) -> AsyncIterator[ServerSentEvent]:
    """A feed as server-sent events.

    What ends the stream but not the job has no number: the client may resume behind the last.
    """
    try:
        async for event in feed:
            yield frame(event)
    except StoppingError:
        return
    except MiniVaultError as error:
        yield _farewell(error)


async def farewell(error: MiniVaultError) -> AsyncIterator[ServerSentEvent]:
    """A stream that has to end before it began."""
    yield _farewell(error)


def _farewell(error: MiniVaultError) -> ServerSentEvent:
    return json_frame({"code": error.code, "message": error.detail}, event="error")


async def text(feed: Feed) -> AsyncIterator[bytes]:
    """A feed as bare UTF-8 text.

    Returns once the first text is there, so that a job that fails before it gets a status
    and a problem document of its own.

    Raises:
        MiniVaultError: the job failed before its first text.
    """
    texts = _texts(feed)
    first = await anext(texts, b"")
    return broken_off(first, texts)


async def _texts(feed: Feed) -> AsyncIterator[bytes]:
    failed: Failed | None = None
    async for event in feed:
        failed = event if isinstance(event, Failed) else None  # else the job was put back
        if added := text_of(event):
            yield added.encode()
    if failed is not None:
        raise failure(failed)


async def broken_off(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What a response goes on with behind its headers: a failure can only break it off."""
    yield first
    try:
        async for chunk in rest:
            yield chunk
    except MiniVaultError as error:
        raise _CutError(error.code) from error
