"""A response's events as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette.event import ServerSentEvent

from api.errors import StoppingError
from api.feed import Feed
from api.openai.responses.fold import ResponseEvent, ResponseFold
from api.sse import json_frame
from shared.errors import MiniVaultError

ALL = -1
"""As `after`: the client has nothing yet."""


async def frames(
    feed: Feed, fold: ResponseFold, after: int = ALL
) -> AsyncIterator[ServerSentEvent]:
    """Those behind number `after`. `feed` begins with the job's first event.

    A failure is told only where it is the end. Where the job was put back, its number is left
    out: clients take a failure for the end wherever it stands.
    """
    failure: ResponseEvent | None = None
    try:
        async for event in feed:
            if feed.live:  # numbers the log has not reached would swallow what is to come
                after = min(after, fold.last)
            failure = None
            for each in fold.add(event):
                if each["sequence_number"] <= after:
                    continue
                if each["type"] == "response.failed":
                    failure = each
                else:
                    yield _frame(each)
    except StoppingError:  # the client may resume, here or elsewhere
        return
    except MiniVaultError as error:
        # Not in the log, so it has no number of its own: whoever resumes goes on behind the last.
        told = {"code": error.code, "message": error.detail, "param": None}
        yield _frame({"type": "error", **told, "sequence_number": max(after, fold.last, 0)})
        return
    if failure is not None:
        yield _frame(failure)


def _frame(event: ResponseEvent) -> ServerSentEvent:
    return json_frame(event, event=event["type"])
