"""The past: finished jobs as the database has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from api.archive import Archive
from api.caller import CallerDep
from api.deps import StateDep
from api.errors import DeletionTooWideError, InteractionNotFoundError
from api.openapi import Responses, problems
from api.queries import Deletion, PageQuery, Selection, own
from api.rows import JSON_LINES, json_page, lines
from api.streams import StreamResponse, broken_off
from api.views import DeletedView, InteractionsView, InteractionView
from shared.history import Filter
from shared.store import Store

router = APIRouter(prefix="/interactions", tags=["history"])

_EXPORT_ROWS: Final = 100
_KNOWN: Final = ("interaction_not_found", "store_unavailable")

_EXPORTED: Final[Responses] = {
    200: {
        "description": "A line of JSON for each interaction, the newest first, as they are when "
        "their turn comes. A failure breaks the transfer off.",
        "content": {JSON_LINES: {"itemSchema": {"$ref": "#/components/schemas/InteractionView"}}},
    }
}


@router.get(
    "",
    summary="Interactions of the past, the newest first",
    response_model=InteractionsView,
    responses=problems("invalid_request", "store_unavailable"),
)
async def interactions(
    query: Annotated[PageQuery, Query()], caller: CallerDep, state: StateDep
) -> Response:
    """Those of the caller's key; an administrator sees all.

    Follow `next` until it is null: whatever is written or deleted meanwhile, no row comes twice,
    and none is missing that was there and stayed.
    """
    wanted = own(query.filter(), caller)
    before = None if query.cursor is None else int(query.cursor)

    def read(store: Store) -> bytes:
        assert wanted is not None
        return json_page(store.page(wanted, before=before, limit=query.limit))

    page = b'{"interactions":[],"next":null}' if wanted is None else await state.archive.ask(read)
    return Response(page, media_type="application/json")


@router.get(
    ".jsonl",
    summary="All of them, as lines of JSON",
    response_class=Response,
    responses=_EXPORTED | problems("invalid_request", "store_unavailable"),
)
async def export(
    query: Annotated[Selection, Query()], caller: CallerDep, state: StateDep
) -> Response:
    """Takes the filters of `GET /interactions`. Nobody waits for whoever reads it slowly."""
    chunks = _exported(own(query.filter(), caller), state.archive)
    first = await anext(chunks, b"")  # a database that is away has a status of its own
    return StreamResponse(broken_off(first, chunks), state.streams, media_type=JSON_LINES)


@router.get("/{job_id}", summary="One of them", responses=problems(*_KNOWN))
async def interaction(job_id: str, caller: CallerDep, state: StateDep) -> InteractionView:
    """By the id of its job, as soon as that has ended and for as long as it is kept."""
    key = None if caller.admin else caller.key
    row = await state.archive.ask(lambda store: store.find(job_id, key=key))
    if row is None:
        raise InteractionNotFoundError
    return InteractionView.model_validate(row)


@router.delete(
    "",
    summary="Delete a key's interactions, or the oldest",
    responses=problems("deletion_too_wide", "invalid_request", "store_unavailable"),
)
async def delete_many(
    query: Annotated[Deletion, Query()], caller: CallerDep, state: StateDep
) -> DeletedView:
    """The caller's own; an administrator has to say which. Usage stays counted."""
    if caller.admin and query.key is None and query.until is None:
        raise DeletionTooWideError
    wanted = own(query.filter(), caller)
    deleted = 0 if wanted is None else await _deleted(state.archive, wanted)
    return DeletedView(deleted=deleted)


@router.delete("/{job_id}", summary="Delete one", responses=problems(*_KNOWN))
async def delete_one(job_id: str, caller: CallerDep, state: StateDep) -> DeletedView:
    """Its texts are gone from the database. Its job's log expires by itself."""
    wanted = Filter(key=None if caller.admin else caller.key)
    deleted = await state.archive.ask(lambda store: store.delete(wanted, ids=[job_id]))
    if not deleted:
        raise InteractionNotFoundError
    return DeletedView(deleted=deleted)


async def _deleted(archive: Archive, wanted: Filter) -> int:
    """Some at a time, so that neither writers nor other readers wait long."""
    deleted = 0
    while found := await archive.ask(lambda store: store.delete_some(wanted)):
        deleted += found
    await archive.ask(lambda store: store.scrub())
    return deleted


async def _exported(wanted: Filter | None, archive: Archive) -> AsyncGenerator[bytes]:
    before: int | None = None
    while wanted is not None:

        def read(store: Store, before: int | None = before) -> tuple[bytes, int | None]:
            page = store.page(wanted, before=before, limit=_EXPORT_ROWS)
            return lines(page.rows), page.next

        chunk, before = await archive.ask(read)
        if chunk:
            yield chunk
        if before is None:
            return
