"""What endpoints ask for, by type."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Query
from pydantic import WithJsonSchema
from starlette.requests import Request

from api.context import request_id
from api.errors import FieldProblem, InvalidRequestError, UnsupportedMediaTypeError
from api.feed import Feed
from api.negotiation import stream_type
from api.schemas import GenerateBody
from api.state import State
from shared.errors import UnknownModelError
from shared.job import GenerationRequest, new_job_id, now

_MAX_SEQ = 2**53 - 1


def _state(request: Request) -> State:
    state: State = request.state.app
    return state


StateDep = Annotated[State, Depends(_state)]


def _json_only(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError


async def _admit(
    request: Request, _: Annotated[None, Depends(_json_only)], body: GenerateBody, state: StateDep
) -> GenerationRequest:
    """Validate first and count after: a request that can't be served costs no permit."""
    settings = state.settings
    if body.model is not None and body.model not in settings.models:
        raise UnknownModelError(
            f"There is no such model here. Known: {', '.join(settings.models)}."
        )
    if body.max_tokens is not None and body.max_tokens > settings.max_tokens:
        raise InvalidRequestError(
            [FieldProblem("max_tokens", f"At most {settings.max_tokens} are allowed.")]
        )
    if state.limiter is not None:
        await state.limiter(request)
    return GenerationRequest(
        id=new_job_id(),
        model=body.model or settings.default_model,
        prompt=body.prompt,
        params=body.params(settings.max_tokens),
        raw=body.raw,
        echo=body.echo,
        client=state.proxies.client(request),
        request_id=request_id(request),
        created_at=now(),
    )


Admitted = Annotated[GenerationRequest, Depends(_admit)]
"""A valid request that the rate limit let through."""


async def _submitted(request: Admitted, state: StateDep) -> AsyncIterator[Feed]:
    async with state.relay.submit(request) as feed:
        yield feed  # until the response is sent


Submitted = Annotated[Feed, Depends(_submitted)]
"""The feed of the request's new job."""


def _stream_type(accept: Annotated[str | None, Header(include_in_schema=False)] = None) -> str:
    return stream_type(accept)


StreamType = Annotated[str, Depends(_stream_type)]


async def _resumed(
    job_id: str,
    state: StateDep,
    after: Annotated[
        int, Query(ge=0, le=_MAX_SEQ, description="Number of the last event you have.")
    ] = 0,
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=_MAX_SEQ, description="The same, as `EventSource` sends it. Wins."),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": _MAX_SEQ}),
    ] = None,
) -> AsyncIterator[Feed | None]:
    async with state.relay.resume(
        job_id, after if last_event_id is None else last_event_id
    ) as feed:
        yield feed


Resumed = Annotated[Feed | None, Depends(_resumed)]
"""The feed of a known job; None if the client has all of it."""
