"""For supervisors and load balancers."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import StateDep
from api.errors import NoWorkerError
from api.openapi import problems
from api.views import HealthView
from shared.queue import workers

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="This process is alive")
async def healthz() -> HealthView:
    """Asks nobody else."""
    return HealthView()


@router.get(
    "/readyz",
    summary="A request would be served now",
    responses=problems("no_worker", "redis_unavailable"),
)
def readyz(state: StateDep) -> HealthView:
    """Redis answers, and a live worker serves the default model."""
    default = state.settings.default_model
    if not any(default in worker.models for worker in workers(state.redis).values()):
        raise NoWorkerError(f"No live worker serves the default model, {default}.")
    return HealthView()
