"""A prompt in, a response out: whole or as it grows."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Response

from api.deps import StateDep, StreamType, Submitted
from api.errors import StoppingError, failure
from api.openapi import EVENT_STREAM_CONTENT, Responses, problems
from api.streams import EVENT_STREAM, PLAIN_TEXT, StreamResponse, frames, text
from api.transcript import Transcript
from api.views import GenerateView

router = APIRouter(tags=["generate"])

_REFUSALS: Final[Responses] = problems(
    "invalid_json",
    "prompt_too_long",
    "unknown_model",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "rate_limited",
    "generation_failed",
    "model_unavailable",
    "redis_unavailable",
    "stopping",
)

_STREAM: Final[dict[str, Any]] = {
    "description": "The job's events, each with its number as `id:`, until `done`, `error` or "
    "`cancelled`. The response is the concatenation of every `text` field, in order. With "
    "`Accept: text/plain`: only that text.",
    "content": {
        EVENT_STREAM: EVENT_STREAM_CONTENT,
        PLAIN_TEXT: {
            "schema": {"type": "string"},
            "example": "The capital of France is Paris.",
        },
    },
}


@router.post("/generate", summary="Generate and wait for the whole response", responses=_REFUSALS)
async def generate(feed: Submitted) -> GenerateView:
    """Answers when the job has ended. A slow one is better streamed."""
    transcript = Transcript()
    try:
        async for event in feed:
            transcript.add(event)
    except StoppingError as error:
        raise StoppingError(
            f"This process is stopping. The job goes on: see GET /jobs/{transcript.id}."
        ) from error
    if transcript.error is not None:
        raise failure(transcript.error)
    return GenerateView.model_validate(transcript)


@router.post(
    "/generate/stream",
    summary="Generate and stream the response as it grows",
    response_class=Response,
    responses={200: _STREAM} | _REFUSALS | problems("not_acceptable"),
)
async def stream(media_type: StreamType, feed: Submitted, state: StateDep) -> Response:
    """A dropped connection ends nothing: follow the job on at `GET /jobs/{job_id}/events`."""
    if media_type == PLAIN_TEXT:
        return StreamResponse(await text(feed), state.settings, media_type=PLAIN_TEXT)
    return StreamResponse(frames(feed), state.settings)
