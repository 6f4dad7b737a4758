"""The models that clients may name."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import StateDep
from api.openapi import problems
from api.views import ModelsView, ModelView
from shared.queue import workers

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models served", responses=problems("redis_unavailable"))
def models(state: StateDep) -> ModelsView:
    settings = state.settings
    live = workers(state.redis).values()
    loaded = {name for worker in live for name in worker.loaded}
    return ModelsView(
        models=[
            ModelView(name=name, default=name == settings.default_model, loaded=name in loaded)
            for name in settings.models
        ]
    )
