"""Jobs, as their event logs tell them."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response

from api.deps import Resumed, StateDep
from api.openapi import EVENT_STREAM_CONTENT, Responses, problems
from api.streams import EVENT_STREAM, StreamResponse, frames
from api.transcript import Transcript
from api.views import JobView

router = APIRouter(prefix="/jobs", tags=["jobs"])

_EVENTS: Final[Responses] = {
    200: {
        "description": "The events behind the given number, as `POST /generate/stream` has them.",
        "content": {EVENT_STREAM: EVENT_STREAM_CONTENT},
    },
    204: {"description": "The job has ended and you have all of it. Do not reconnect."},
}


@router.get(
    "/{job_id}",
    summary="State of a job and its response so far",
    responses=problems("job_not_found", "redis_unavailable"),
)
async def job(job_id: str, state: StateDep) -> JobView:
    """Jobs can be read for a while after they end; then they are unknown."""
    transcript = Transcript()
    for event in await state.relay.read(job_id):
        transcript.add(event)
    return JobView.model_validate(transcript)


@router.get(
    "/{job_id}/events",  # noqa: FAST003 (`Resumed` takes it)
    summary="Follow a job, or go on where a stream broke off",
    response_class=Response,
    responses=_EVENTS | problems("job_not_found", "invalid_request", "redis_unavailable"),
)
async def events(feed: Resumed, state: StateDep) -> Response:
    """`Last-Event-ID` or `after` name the last event you have; without them, all are sent."""
    if feed is None:
        return Response(status_code=204)
    return StreamResponse(frames(feed), state.settings)
