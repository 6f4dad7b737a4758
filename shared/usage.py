"""What was used: sums of tokens, kept as rows are written."""

from __future__ import annotations

from datetime import date
from typing import Final

import msgspec
import sqlalchemy as sa

from shared.database import storable


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Of one key and model on one day, in UTC, of the jobs that were made on it."""

    day: str
    key: str
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class UsageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which; all that are left open, any."""

    key: str | None = None
    model: str | None = None
    since: date | None = None
    until: date | None = None
    """Not that day itself."""


USAGE: Final = sa.table("usage", *(sa.column(name) for name in Usage.__struct_fields__))
_ORDER: Final = USAGE.c.day, USAGE.c.key, USAGE.c.model


class UsageKey(msgspec.Struct, frozen=True, array_like=True):
    """Names a row."""

    day: str
    key: str
    model: str


def key_of(row: Usage) -> UsageKey:
    return UsageKey(row.day, row.key, row.model)


def read_usage(
    connection: sa.Connection, wanted: UsageFilter, *, after: UsageKey | None, limit: int
) -> list[Usage]:
    """The newest days first."""
    query = sa.select(USAGE).order_by(*(column.desc() for column in _ORDER)).limit(limit)
    for name in ("key", "model"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(USAGE.c[name] == storable(value))
    if wanted.since is not None:
        query = query.where(USAGE.c.day >= wanted.since.isoformat())
    if wanted.until is not None:
        query = query.where(USAGE.c.day < wanted.until.isoformat())
    if after is not None:
        last = (storable(value) for value in (after.day, after.key, after.model))
        query = query.where(sa.tuple_(*_ORDER) < tuple(last))
    return [Usage(**row) for row in connection.execute(query).mappings()]
