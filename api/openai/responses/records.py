"""Finds responses: jobs whose note says that they are."""

from __future__ import annotations

from typing import NamedTuple

from api.caller import Caller
from api.deadline import in_time
from api.errors import PreviousResponseNotFoundError
from api.openai.body import invalid
from api.openai.responses import ids
from api.openai.responses.fold import ResponseFold
from api.openai.responses.note import ResponseNote, note_of
from api.state import State
from shared import log
from shared.errors import JobNotFoundError
from shared.job import GenerationRequest, Message

_UNKNOWN = "No response has this id, or it has expired."


class Record(NamedTuple):
    """What was asked for. What became of it is in the log."""

    request: GenerationRequest
    note: ResponseNote

    def fold(self) -> ResponseFold:
        return ResponseFold(self.request, self.note)


def as_record(request: GenerationRequest | None) -> Record:
    """Raises JobNotFoundError: there is none, or it came by another protocol."""
    note = note_of(request) if request else None
    if request is None or note is None:
        raise JobNotFoundError(_UNKNOWN)
    return Record(request, note)


async def read(state: State, job_id: str) -> Record:
    """The response that a job is.

    Raises:
        JobNotFoundError: it is none, or no more.
    """
    async with in_time():
        return as_record(await log.read_request(state.redis, job_id))


async def find(state: State, caller: Caller, response_id: str) -> Record:
    """A response that may be asked for under its id.

    Raises:
        JobNotFoundError: there is none, it is another key's, or was not to be stored.
    """
    record = await read(state, ids.job_id(response_id))
    if not caller.may_see(record.request.key) or not record.note.store:
        raise JobNotFoundError(_UNKNOWN)
    return record


async def conversation(state: State, caller: Caller, response_id: str) -> tuple[Message, ...]:
    """What was said up to the end of a response; its instructions were its own.

    Raises:
        PreviousResponseNotFoundError: there is no such response, or no more.
        InvalidRequestError: it has not ended, or has failed.
    """
    try:
        record = await find(state, caller, response_id)
        told = record.fold().add_all(await state.relay.read(record.request.id, caller))
    except JobNotFoundError:
        raise PreviousResponseNotFoundError from None
    if told.failure is not None or not told.ended:
        message = "That response failed." if told.ended else "That response has not ended yet."
        raise invalid(["previous_response_id"], message)
    answer = (Message("assistant", told.text),) if told.text else ()
    return (*record.request.messages[record.note.instructed :], *answer)
