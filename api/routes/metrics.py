"""For Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api.deps import StateDep

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Counters, in Prometheus' format", response_class=Response)
async def metrics(state: StateDep) -> Response:
    """Of this process, and of the queues. Each worker has its own, on its own port."""
    text = await state.metrics.exposition(state.redis, state.settings.models)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
