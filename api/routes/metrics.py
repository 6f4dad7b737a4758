"""For Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api.caller import AdminDep
from api.deps import StateDep
from api.openapi import problems

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Counters, in Prometheus' format",
    response_class=Response,
    responses=problems("admin_required"),
)
async def metrics(state: StateDep, _: AdminDep) -> Response:
    """Of this process, and of the queues. Each worker has its own, on its own port.

    On a port of their own (`MINIVAULT_METRICS_PORT`) they need no key.
    """
    text = await state.metrics.exposition(state.redis, state.settings.models)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
