"""A response's events as server-sent events."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from api.errors import StoppingError
from api.feed import Feed
from api.openai.responses.fold import ResponseEvent, ResponseFold
from api.sse import one_line, pieces
from shared.errors import MiniVaultError

ALL: Final = -1
"""As `after`: the client has nothing yet."""
_PADDED: Final = 64
"""Obfuscated events have sizes that are multiples of this."""

_encode: Final = msgspec.json.Encoder().encode


async def frames(
    feed: Feed, fold: ResponseFold, after: int = ALL, *, padded: bool = False
) -> AsyncGenerator[bytes]:
    """Those behind number `after`. `feed` begins with the job's first event.

    A failure is told only where it is the end. Where the job was put back, its number is left
    out: clients take a failure for the end wherever it stands.
    """
    failure: ResponseEvent | None = None
    try:
        async for events in feed.batches():
            made: list[bytes] = []
            for event in events:
                if feed.live:  # numbers the log has not reached would swallow what is to come
                    after = min(after, fold.last)
                new = [each for each in fold.add(event) if each["sequence_number"] > after]
                failure = next((each for each in new if each["type"] == "response.failed"), None)
                made += [_frame(each, padded=padded) for each in new if each is not failure]
            for piece in pieces(made):
                yield piece
    except StoppingError:  # the client may resume, here or elsewhere
        return
    except MiniVaultError as error:
        # Not in the log, so it has no number of its own: whoever resumes goes on behind the last.
        told = {"code": error.code, "message": error.detail, "param": None}
        yield _frame({"type": "error", **told, "sequence_number": max(after, fold.last, 0)})
        return
    if failure is not None:
        yield _frame(failure)


def _frame(event: ResponseEvent, *, padded: bool = False) -> bytes:
    data = one_line(_encode(event))
    if padded and "delta" in event:
        padding = secrets.token_urlsafe(_PADDED)[: -len(data) % _PADDED]
        data = data[:-1] + b',"obfuscation":"%s"}' % padding.encode()
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data)
