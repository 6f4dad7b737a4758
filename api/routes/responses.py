"""OpenAI's Responses API: created, polled, followed, resumed, cancelled, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request

from api.admission import IdempotencyKey, admit_all, json_only
from api.caller import Caller, CallerDep
from api.context import held, reply_headers
from api.deps import StateDep
from api.disconnect import while_connected
from api.errors import StoppingError, failure
from api.feed import Feed
from api.openai.body import invalid
from api.openai.chunks import PING
from api.openai.exchange import JOBS_HEADER
from api.openai.responses.body import ResponseBody
from api.openai.responses.fold import ResponseFold
from api.openai.responses.ids import response_id as name_of
from api.openai.responses.inputs import items
from api.openai.responses.records import Record, as_record, conversation, find, read
from api.openai.responses.stream import ALL, frames
from api.openai.responses.views import DeletedResponse, InputItemsView, ResponseView
from api.openapi import ADMISSION_PROBLEMS, Responses, openai_errors
from api.relay import Admission
from api.state import State
from api.streams import EVENT_STREAM, StreamResponse

router = APIRouter(prefix="/v1/responses", tags=["responses"])

_CANCEL_SECONDS: Final = 2.5
"""How long an answer waits for a cancelled response's end."""
_MAX_NUMBER: Final = 2**53 - 1

_KNOWN: Final = ("job_not_found", "redis_unavailable", "invalid_request")

_ANSWER: Final[dict[str, Any]] = {
    "description": "The response; or with `stream` its events, until it has ended.",
    "content": {
        EVENT_STREAM: {
            "itemSchema": {
                "type": "object",
                "required": ["event", "data"],
                "properties": {
                    "event": {"type": "string", "description": "The `type` of the data."},
                    "data": {"type": "string", "contentMediaType": "application/json"},
                },
            },
            "example": "event: response.output_text.delta\n"
            'data: {"type":"response.output_text.delta","item_id":'
            '"msg_0123456789abcdef0123456789abcdef","output_index":0,"content_index":0,'
            '"delta":"The","logprobs":[],"sequence_number":5}\n\n',
        }
    },
}
_JOB: Final[dict[str, Any]] = {
    "headers": {JOBS_HEADER: {"description": "The response's job.", "schema": {"type": "string"}}}
}
_RETRIEVED: Final[Responses] = {200: _ANSWER}
_MADE: Final[Responses] = {200: _ANSWER | _JOB}
_CREATED: Final[Responses] = _MADE | openai_errors(
    "/v1/responses",
    *ADMISSION_PROBLEMS,
    "prompt_too_long",
    "invalid_prompt",
    "no_chat_template",
    "previous_response_not_found",
    "job_not_found",
    "job_expired",
    "generation_failed",
    "worker_lost",
    "expired",
    "model_unavailable",
)


async def _nothing_more(
    _: Annotated[
        list[Literal["message.output_text.logprobs"]] | None,
        Query(alias="include[]", description="They are there if they were asked for at first."),
    ] = None,
) -> None:
    """What OpenAI's API can add to an answer, so that it is refused and not ignored."""


_NOTHING_MORE: Final = [Depends(_nothing_more)]


class _Submitted(NamedTuple):
    record: Record
    feed: Feed | None
    """None: nobody waits for it."""
    body: ResponseBody


async def _submitted(
    request: Request,
    _: Annotated[None, Depends(json_only)],
    body: ResponseBody,
    state: StateDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
) -> _Submitted:
    earlier = body.previous_response_id
    said = await conversation(state, caller, earlier) if earlier else ()
    draft = body.draft(said, state.settings.max_tokens)
    [admission] = await admit_all([draft], request, state, caller, idempotency_key)
    if body.background and not body.stream:
        job_id = await state.relay.enqueue(admission)
        return _Submitted(await _record(state, admission, job_id), None, body)
    feed = await held(request).enter_async_context(state.relay.submit(admission))
    return _Submitted(await _record(state, admission, feed.job_id), feed, body)


async def _record(state: State, admission: Admission, job_id: str) -> Record:
    """An earlier job's, if the Idempotency-Key stands for one."""
    if job_id == admission.request.id:
        return as_record(admission.request)
    return await read(state, job_id)


@router.post("", summary="Create a response", responses=_CREATED, response_model=ResponseView)
async def create(
    request: Request,
    submitted: Annotated[_Submitted, Depends(_submitted)],
    state: StateDep,
    caller: CallerDep,
) -> Any:
    """Whole, streamed, or in the background; which of them can be combined.

    A dropped connection ends nothing at once: the stream goes on at `GET /v1/responses/{id}`. If
    nobody follows it for a while, the response is cancelled, unless it is made in the background.
    """
    record, feed, body = submitted
    reply_headers(request)[JOBS_HEADER] = record.request.id
    if feed is None:
        return await _now(state, record, caller)
    if body.stream:
        events = frames(feed, record.fold(), padded=body.padded)
        return StreamResponse(events, state.streams, ping=PING)
    told = await while_connected(request, _whole(record, feed))
    if told.failure is not None:
        raise failure(told.failure)
    return told.view()


async def _found(response_id: str, state: StateDep, caller: CallerDep) -> Record:
    return await find(state, caller, response_id)


_Found = Annotated[Record, Depends(_found)]


async def _frames(
    *,
    request: Request,
    record: _Found,
    state: StateDep,
    caller: CallerDep,
    stream: Annotated[bool, Query(description="Send the response's events.")] = False,
    starting_after: Annotated[
        int | None,
        Query(ge=0, le=_MAX_NUMBER, description="Number of the last event you have."),
    ] = None,
    include_obfuscation: Annotated[bool, Query(description="Pad deltas.")] = False,
) -> AsyncGenerator[bytes] | None:
    if not stream:
        if starting_after is not None:
            raise invalid(["starting_after"], "Only a stream has events to start after.")
        return None
    if state.relay.draining:
        raise StoppingError("This process is stopping and opens no new streams.")
    after = ALL if starting_after is None else starting_after
    resumed = state.relay.resume(record.request.id, 0, caller)
    feed = await held(request).enter_async_context(resumed)
    assert feed is not None  # something follows 0
    return frames(feed, record.fold(), after, padded=include_obfuscation)


@router.get(
    "/{response_id}",
    summary="State of a response, or its events from any of them on",
    responses=_RETRIEVED | openai_errors("", *_KNOWN, "stopping"),
    response_model=ResponseView,
    dependencies=_NOTHING_MORE,
)
async def retrieve(
    record: _Found,
    events: Annotated[AsyncGenerator[bytes] | None, Depends(_frames)],
    state: StateDep,
    caller: CallerDep,
) -> Any:
    """Numbers stay the same whoever tells them, and after a crash of whatever process."""
    if events is not None:
        return StreamResponse(events, state.streams, ping=PING)
    return await _now(state, record, caller)


@router.post(
    "/{response_id}/cancel",  # noqa: FAST003
    summary="Cancel a background response",
    responses=openai_errors("", *_KNOWN),
)
async def cancel(record: _Found, state: StateDep, caller: CallerDep) -> ResponseView:
    """As often as you like; one that has ended stays as it is."""
    if not record.request.background:
        raise invalid(["response_id"], "Only background responses can be cancelled.")
    await state.relay.cancel(record.request.id, caller)
    told = record.fold()
    with suppress(TimeoutError, StoppingError):
        async with (
            asyncio.timeout(_CANCEL_SECONDS),
            state.relay.resume(record.request.id, 0, caller) as feed,
        ):
            assert feed is not None  # something follows 0
            async for event in feed:
                told.add(event)
    return told.view()


@router.delete(
    "/{response_id}",  # noqa: FAST003
    summary="Delete a response",
    responses=openai_errors("", *_KNOWN, "job_not_over"),
)
async def delete(record: _Found, state: StateDep, caller: CallerDep) -> DeletedResponse:
    """One that has not ended is cancelled first. Its row among the interactions stays."""
    await state.relay.erase(record.request.id, caller)
    return DeletedResponse(id=name_of(record.request.id))


@router.get(
    "/{response_id}/input_items",  # noqa: FAST003
    summary="What a response was made of",
    responses=openai_errors("", *_KNOWN),
    dependencies=_NOTHING_MORE,
)
async def input_items(
    record: _Found,
    after: Annotated[str | None, Query(description="Id of the last item you have.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> InputItemsView:
    """The turns of the responses before it, too; not the instructions."""
    found = items(*record)
    if order == "desc":
        found.reverse()
    ids = [item.id for item in found]
    if after is not None and after not in ids:
        raise invalid(["after"], "The input has no item of this id.")
    start = 0 if after is None else ids.index(after) + 1
    page = found[start : start + limit]
    return InputItemsView(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=start + limit < len(found),
    )


async def _now(state: State, record: Record, caller: Caller) -> ResponseView:
    return record.fold().add_all(await state.relay.read(record.request.id, caller)).view()


async def _whole(record: Record, feed: Feed) -> ResponseFold:
    told = record.fold()
    try:
        async for event in feed:
            told.add(event)
    except StoppingError as error:
        where = f"GET /v1/responses/{name_of(feed.job_id)}"
        raise StoppingError(
            f"This process is stopping. The response is made all the same: see {where}."
        ) from error
    return told
