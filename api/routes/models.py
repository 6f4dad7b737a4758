"""The models that clients may name."""

from __future__ import annotations

from fastapi import APIRouter

from api.caller import CallerDep
from api.deadline import in_time
from api.deps import StateDep
from api.openapi import problems
from api.views import ModelsView, ModelView
from shared.queue import workers_async

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models served", responses=problems("redis_unavailable"))
async def models(state: StateDep, caller: CallerDep) -> ModelsView:
    """Those that your API key may use."""
    allowed = caller.models(state.settings.models)
    async with in_time():
        workers = await workers_async(state.redis)
    loaded = {name for worker in workers for name in worker.loaded}
    return ModelsView(
        models=[
            ModelView(name=name, default=name == allowed[0], loaded=name in loaded)
            for name in allowed
        ]
    )
