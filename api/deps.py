"""What endpoints ask for, by type."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated

from fastapi import Depends, Header, Query
from pydantic import WithJsonSchema
from redis.exceptions import RedisError
from starlette.requests import Request

from api.caller import Caller, CallerDep
from api.context import held
from api.errors import StoppingError
from api.feed import Feed
from api.negotiation import insists_on_events
from api.state import State, state_of
from shared.errors import MiniVaultError, RedisUnavailableError

_MAX_SEQ = 2**53 - 1

# Each is `async`: FastAPI hands what is not to a thread, and waits for it.


async def _state(request: Request) -> State:
    return state_of(request)


StateDep = Annotated[State, Depends(_state)]


async def _last_event(
    after: Annotated[
        int, Query(ge=0, le=_MAX_SEQ, description="Number of the last event you have.")
    ] = 0,
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=_MAX_SEQ, description="The same, as `EventSource` sends it. Wins."),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": _MAX_SEQ}),
    ] = None,
) -> int:
    return after if last_event_id is None else last_event_id


async def _resumed(
    *,
    request: Request,
    job_id: str,
    state: StateDep,
    caller: CallerDep,
    after: Annotated[int, Depends(_last_event)],
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Feed | MiniVaultError | None:
    try:
        return await held(request).enter_async_context(_feed(job_id, after, state, caller))
    except (RedisError, RedisUnavailableError, StoppingError) as error:
        if not insists_on_events(accept):
            raise
        refusal = error if isinstance(error, MiniVaultError) else RedisUnavailableError()
    request.state.problem = refusal.code
    return refusal


def _feed(
    job_id: str, after: int, state: State, caller: Caller
) -> AbstractAsyncContextManager[Feed | None]:
    if state.relay.draining:
        raise StoppingError("This process is stopping and opens no new streams.")
    return state.relay.resume(job_id, after, caller)


Resumed = Annotated[Feed | MiniVaultError | None, Depends(_resumed)]
"""The feed of a known job; None if the client has all of it. An error that passes, for those who
want it in the stream: EventSource tries again behind a stream that ends, and never behind a 503."""
