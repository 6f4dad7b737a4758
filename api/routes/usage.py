"""What was used: tokens and requests by day, key and model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.caller import CallerDep
from api.cursor import decode_cursor, encode_cursor
from api.deps import StateDep
from api.openapi import problems
from api.queries import UsageQuery, own
from api.views import UsageDayView, UsagesView

router = APIRouter(tags=["history"])


@router.get(
    "/usage",
    summary="Tokens and requests by day, key and model",
    responses=problems("invalid_request", "store_unavailable"),
)
async def usage(
    query: Annotated[UsageQuery, Query()], caller: CallerDep, state: StateDep
) -> UsagesView:
    """Of the caller's key; an administrator sees all. The newest days first.

    Every job counts once, on the day on which it was made, in UTC; also one whose interaction was
    deleted since.
    """
    after = decode_cursor(query.cursor)
    wanted = own(query.filter(), caller)
    if wanted is None:
        return UsagesView(usage=[], next=None)
    rows = await state.archive.ask(
        lambda store: store.usage(wanted, after=after, limit=query.limit + 1)
    )
    following = encode_cursor(rows[query.limit - 1]) if len(rows) > query.limit else None
    views = [UsageDayView.model_validate(row) for row in rows[: query.limit]]
    return UsagesView(usage=views, next=following)
