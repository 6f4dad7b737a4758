"""The models: which there are, and for administrators, which are served and kept in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from api.admission import json_only
from api.caller import AdminDep, CallerDep
from api.deps import StateDep
from api.errors import StoppingError
from api.openapi import problems
from api.pulls import Pull, begin
from api.sse import json_frame
from api.state import State
from api.streams import EVENT_STREAM, StreamResponse
from api.views import ModelsView, ModelView
from shared.errors import MiniVaultError, UnknownModelError

router = APIRouter(tags=["models"])

_REFUSALS: Final = (
    "admin_required",
    "unknown_model",
    "unsupported_media_type",
    "no_worker",
    "redis_unavailable",
)


async def _no_page(request: Request) -> None:
    """Anybody's web page can send a bare POST here, but none of JSON without asking first.

    Browsers name the page in `Origin`.
    """
    if "origin" in request.headers:
        await json_only(request)


_DELIBERATE: Final = [Depends(_no_page)]
_GOES_ON: Final[dict[int | str, dict[str, Any]]] = {
    202: {"description": "It goes on; ask again.", "model": ModelView}
}
_PROGRESS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`progress` events, then one `done` or `error`.",
        "content": {
            EVENT_STREAM: {
                "itemSchema": {
                    "type": "object",
                    "required": ["event", "data"],
                    "properties": {
                        "event": {"enum": ["progress", "done", "error"]},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                },
                "example": 'event: progress\ndata: {"model":"distilgpt2","stage":"Downloading '
                'distilbert/distilgpt2","done":1048576,"total":352824413}\n\n'
                'event: done\ndata: {"model":"distilgpt2"}\n\n',
            }
        },
    }
}


@router.get("/models", summary="Models", responses=problems("redis_unavailable"))
async def models(state: StateDep, caller: CallerDep) -> ModelsView:
    """Those that requests may name; for administrators also the rest of the catalog."""
    allowed = caller.models(await state.served.names())
    default = allowed[0] if allowed else ""
    found = await _views(state)
    return ModelsView(
        models=[
            view.model_copy(update={"default": view.name == default})
            for view in found
            if view.name in allowed or caller.admin
        ]
    )


@router.post(
    "/models/{name}/load",
    dependencies=_DELIBERATE,
    summary="Load a model, and serve it",
    responses=_GOES_ON | problems(*_REFUSALS, "model_unavailable", "no_place", "model_too_large"),
)
async def load(name: str, state: StateDep, _: AdminDep, response: Response) -> ModelView:
    """One worker takes it into its memory, and requests may name it from then on.

    What is in memory stays until its place is needed, unless it is pinned. A model that is
    already there is left as it is.
    """
    return await _settled(name, state, response, done=await state.fleet.load(name))


@router.post(
    "/models/{name}/unload",
    dependencies=_DELIBERATE,
    summary="Unload a model",
    responses=_GOES_ON
    | problems(*_REFUSALS, "invalid_request", "model_pinned", "model_in_settings"),
)
async def unload(
    name: str,
    state: StateDep,
    _: AdminDep,
    response: Response,
    *,
    withdraw: Annotated[
        bool,
        Query(description="Requests may no longer name it. Jobs that wait for it are still done."),
    ] = False,
) -> ModelView:
    """Every worker puts it out of memory once its jobs there have ended.

    The next job for it brings it back.
    """
    done = await state.fleet.unload(name, withdraw=withdraw)
    return await _settled(name, state, response, done=done)


@router.put(
    "/models/{name}/pin",
    summary="Keep a model in memory",
    responses=problems(*_REFUSALS, "no_place"),
)
async def pin(name: str, state: StateDep, _: AdminDep) -> ModelView:
    """Every worker loads it, also those that start later, and none puts it out for another."""
    await state.fleet.pin(name)
    return await _view(name, state)


@router.delete("/models/{name}/pin", summary="Let a model go again", responses=problems(*_REFUSALS))
async def unpin(name: str, state: StateDep, _: AdminDep) -> ModelView:
    """It stays in memory until its place is needed."""
    await state.fleet.unpin(name)
    return await _view(name, state)


@router.post(
    "/models/{name}/pull",
    dependencies=_DELIBERATE,
    summary="Fetch a model, and watch",
    response_class=Response,
    responses=_PROGRESS | problems(*_REFUSALS, "invalid_request", "stopping"),
)
async def pull(
    name: str,
    state: StateDep,
    _: AdminDep,
    *,
    force: Annotated[bool, Query(description="Fetch again what is there.")] = False,
) -> StreamResponse:
    """A worker downloads and converts it, whether or not anybody watches.

    The same request, made again, shows how far it has come.
    """
    if state.relay.draining:
        raise StoppingError("This process is stopping and opens no new streams.")
    found = await begin(state.redis, state.fleet, name, force=force)
    return StreamResponse(_frames(found, state), state.streams)


async def _frames(found: Pull, state: State) -> AsyncGenerator[bytes]:
    try:
        async for each in found.states():
            data = {
                "model": found.model,
                "stage": each.stage,
                "done": each.done,
                "total": each.total,
            }
            yield json_frame(data, event="progress")
            if state.relay.draining:
                return
    except MiniVaultError as error:
        yield json_frame({"code": error.code, "message": error.detail}, event="error")
    else:
        yield json_frame({"model": found.model}, event="done")


async def _settled(name: str, state: State, response: Response, *, done: bool) -> ModelView:
    if not done:
        response.status_code = HTTPStatus.ACCEPTED
    return await _view(name, state)


async def _view(name: str, state: State) -> ModelView:
    for view in await _views(state):
        if view.name == name:
            return view
    raise UnknownModelError("The catalog has no model of that name.")


async def _views(state: State) -> list[ModelView]:
    """The served ones first, in the order of the settings."""
    served, fleet = state.served, state.fleet
    names = await served.names()
    workers, pinned = await fleet.workers(), await fleet.pinned()
    stock = (await fleet.stock(workers)).values()
    others = sorted({name for entries in stock for name in entries} - set(names))
    views = []
    for name in [*names, *others]:
        entries = [found[name] for found in stock if name in found]
        ready = [entry for entry in entries if entry.ready]
        having = [worker for worker, info in workers.items() if name in info.loaded]
        views.append(
            ModelView(
                name=name,
                default=name == state.settings.default_model,
                served=name in names,
                ready=bool(ready),
                loaded=bool(having),
                workers=having,
                loading=any(name in info.coming for info in workers.values()),
                pinned=name in pinned,
                bytes=max((entry.bytes for entry in ready), default=0),
                memory=max((entry.memory for entry in ready), default=0),
                memory_full=max((entry.memory_full for entry in ready), default=0),
            )
        )
    return views
