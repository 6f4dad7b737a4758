"""From a body to its answer, whole or as chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api.admission import admit_all
from api.caller import Caller
from api.context import reply_headers
from api.disconnect import while_connected
from api.draft import Draft
from api.openai.answers import usage_of
from api.openai.body import Body
from api.openai.chunks import PING, Chunks
from api.openai.feeds import Choices, submitted
from api.openai.voices import Answer, Name, Voice
from api.state import State
from api.streams import StreamResponse
from shared.job import now

JOBS_HEADER: Final = "X-Job-ID"
"""Tells the jobs that a request has become, in the order of its choices."""


@asynccontextmanager
async def submit(
    drafts: Sequence[Draft],
    request: Request,
    state: State,
    caller: Caller,
    idempotency_key: str | None,
) -> AsyncIterator[Choices]:
    admissions = await admit_all(drafts, request, state, caller, idempotency_key)
    async with submitted(state.relay, admissions) as choices:
        reply_headers(request)[JOBS_HEADER] = ", ".join(choices.job_ids)
        yield choices


async def answer(
    request: Request, state: State, body: Body, choices: Choices, voice: Voice
) -> Response:
    """Raises MiniVaultError: why there is none."""
    name, each = Name(choices.job_ids[0], int(now()), body.model), body.n or 1
    if body.stream:
        await while_connected(request, choices.begin(state.settings.ping_seconds))
        chunks = Chunks(choices, voice, name, body.stream_options, each=each)
        return StreamResponse(
            chunks.stream(request.url.path),
            state.streams,
            ping=PING,
            shortcut=choices.shortcut(chunks.piece),
        )
    answers = await while_connected(request, _whole(choices))
    usage = usage_of((answer.usage for answer in answers), for_each_prompt=each)
    encoded = msgspec.json.encode(voice.whole(name, answers, usage))
    return Response(encoded, media_type="application/json")


async def _whole(choices: Choices) -> list[Answer]:
    answers = [Answer() for _ in choices.job_ids]
    async for index, event in choices:
        answers[index].add(event)
    return answers
