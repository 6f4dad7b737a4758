"""What endpoints ask for, by type."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Query
from pydantic import WithJsonSchema
from starlette.requests import Request

from api.caller import CallerDep
from api.errors import StoppingError
from api.feed import Feed
from api.negotiation import stream_type
from api.state import State

_MAX_SEQ = 2**53 - 1


def _state(request: Request) -> State:
    state: State = request.state.app
    return state


StateDep = Annotated[State, Depends(_state)]


def _stream_type(accept: Annotated[str | None, Header(include_in_schema=False)] = None) -> str:
    return stream_type(accept)


StreamType = Annotated[str, Depends(_stream_type)]


async def _resumed(
    job_id: str,
    state: StateDep,
    caller: CallerDep,
    after: Annotated[
        int, Query(ge=0, le=_MAX_SEQ, description="Number of the last event you have.")
    ] = 0,
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=_MAX_SEQ, description="The same, as `EventSource` sends it. Wins."),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": _MAX_SEQ}),
    ] = None,
) -> AsyncIterator[Feed | None]:
    if state.relay.draining:
        raise StoppingError("This process is stopping and opens no new streams.")
    async with state.relay.resume(
        job_id, after if last_event_id is None else last_event_id, caller
    ) as feed:
        yield feed


Resumed = Annotated[Feed | None, Depends(_resumed)]
"""The feed of a known job; None if the client has all of it."""
