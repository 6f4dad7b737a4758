"""For supervisors and load balancers."""

from __future__ import annotations

from fastapi import APIRouter

from api.deadline import in_time
from api.deps import StateDep
from api.errors import NoWorkerError, StoppingError
from api.openapi import problems
from api.views import HealthView
from shared.queue import workers_async

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="This process is alive")
async def healthz() -> HealthView:
    """Asks nobody else."""
    return HealthView()


@router.get(
    "/readyz",
    summary="A request would be served now",
    responses=problems("no_worker", "redis_unavailable", "stopping"),
)
async def readyz(state: StateDep) -> HealthView:
    """Redis answers, a live worker serves the default model, and this process goes on."""
    if state.relay.draining:
        raise StoppingError("This process is stopping and takes no new requests.")
    default = state.settings.default_model
    async with in_time():
        workers = await workers_async(state.redis)
    if not any(default in worker.models for worker in workers):
        raise NoWorkerError(f"No live worker serves the default model, {default}.")
    return HealthView()
