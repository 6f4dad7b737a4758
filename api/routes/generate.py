"""A prompt in, a response out: whole or as it grows."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from api.admission import JSON_ONLY, IdempotencyKey, submitted
from api.disconnect import while_connected
from api.errors import StoppingError, failure
from api.feed import Feed
from api.negotiation import stream_type
from api.openapi import ADMISSION_PROBLEMS, EVENT_STREAM_CONTENT, Responses, problems
from api.schemas import GenerateBody
from api.shortcut import Shortcut
from api.sse import frame
from api.state import state_of
from api.streams import EVENT_STREAM, PLAIN_TEXT, StreamResponse, frames, text
from api.transcript import Transcript
from api.views import GenerateView

router = APIRouter(tags=["generate"])

_REFUSALS: Final[Responses] = problems(
    *ADMISSION_PROBLEMS,
    "prompt_too_long",
    "invalid_logit_bias",
    "invalid_prompt",
    "no_chat_template",
    "job_expired",
    "generation_failed",
    "worker_lost",
    "expired",
    "model_unavailable",
    "model_too_large",
    "no_place",
)

_STREAM: Final[dict[str, Any]] = {
    "description": "The job's events, each with its number as `id:`, until `done`, `error` or "
    "`cancelled`. The response is the concatenation of every `text` field, in order. While the "
    "job waits, `queued` comes again, without a number, as its position changes. With "
    "`Accept: text/plain`: only the text.",
    "content": {
        EVENT_STREAM: EVENT_STREAM_CONTENT,
        PLAIN_TEXT: {
            "schema": {"type": "string"},
            "example": "The capital of England is London.",
        },
    },
}


@router.post(
    "/generate",
    summary="Generate and wait for the whole response",
    responses=_REFUSALS,
    dependencies=JSON_ONLY,
)
async def generate(
    request: Request, body: GenerateBody, idempotency_key: IdempotencyKey = None
) -> GenerateView:
    """Answers when the job has ended. A slow one is better streamed."""
    feed = await submitted(request, body, idempotency_key)
    transcript = await while_connected(request, _whole(feed))
    if transcript.error is not None:
        raise failure(transcript.error)
    return GenerateView.model_validate(transcript)


@router.post(
    "/generate/stream",
    summary="Generate and stream the response as it grows",
    response_class=Response,
    responses={200: _STREAM} | _REFUSALS | problems("not_acceptable"),
    dependencies=JSON_ONLY,
)
async def stream(
    request: Request, body: GenerateBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """A dropped connection ends nothing at once: go on at `GET /jobs/{job_id}/events`.

    If nobody does for a while, the job is cancelled, unless it was sent with `background`.
    """
    media_type = stream_type(request.headers.get("accept"))
    feed = await submitted(request, body, idempotency_key)
    streams = state_of(request).streams
    if media_type == PLAIN_TEXT:
        chunks = await while_connected(request, text(feed))
        return StreamResponse(chunks, streams, media_type=PLAIN_TEXT)
    return StreamResponse(frames(feed), streams, shortcut=Shortcut(feed, frame))


async def _whole(feed: Feed) -> Transcript:
    transcript = Transcript()
    try:
        async for event in feed:
            transcript.add(event)
    except StoppingError as error:
        raise StoppingError(
            f"This process is stopping. The job goes on: see GET /jobs/{feed.job_id}."
        ) from error
    return transcript
