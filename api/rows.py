"""Interactions as bytes: written on the thread that has read them, since there may be many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from shared.history import Page
from shared.interaction import Interaction

JSON_LINES: Final = "application/x-ndjson"


def json_page(page: Page) -> bytes:
    """As `api.views.InteractionsView` has it."""
    following = None if page.next is None else str(page.next)
    rows = [_document(row) for row in page.rows]
    return msgspec.json.encode({"interactions": rows, "next": following})


def lines(rows: Iterable[Interaction]) -> bytes:
    return b"".join(msgspec.json.encode(_document(row)) + b"\n" for row in rows)


def _document(row: Interaction) -> dict[str, Any]:
    """As `api.views.InteractionView` has it."""
    return msgspec.structs.asdict(row) | {"parameters": msgspec.Raw(row.parameters.encode())}
