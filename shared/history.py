"""Reading the interactions: which ones, in what order, and how many at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec
import sqlalchemy as sa

from shared.database import Database, storable
from shared.interaction import Interaction
from shared.numbering import first_number

_FIELDS: Final = Interaction.__struct_fields__
INTERACTIONS: Final = sa.table(
    "interactions",
    sa.column("number", sa.BigInteger),
    *(sa.column(name, sa.Text) for name in ("prompt", "response")),
    *(sa.column(name) for name in _FIELDS if name not in ("prompt", "response")),
)
_COLUMNS: Final = [INTERACTIONS.c[name] for name in _FIELDS]
_PAGE_CHARACTERS: Final = 1 << 20
"""Of texts; a page that comes to more ends early. Prompts may be as large as request bodies."""
_ROWS_AT_ONCE: Final = 16
_FEW: Final = 3_000
"""Rows whose texts are read in some milliseconds."""
MAX_TERMS: Final = 16
"""Of a search."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which interactions; all that are left open, any."""

    key: str | None = None
    model: str | None = None
    status: str | None = None
    finish_reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Made before then."""
    search: str = ""
    """Words and "quoted phrases", each of which has to be somewhere in prompt or response."""


class Page(msgspec.Struct, frozen=True):
    rows: Sequence[Interaction]
    next: int | None
    """Number before which the following page begins; None: there is none."""


def terms_of(search: str) -> list[str]:
    """What a search is for; a quote without its fellow is a character like others."""
    found = re.finditer(r'"([^"]*)"|(\S+)', storable(search))
    terms = (each[1] or each[2] or "" for each in found)
    return list(dict.fromkeys(term for term in terms if term.strip()))[:MAX_TERMS]


def read_page(
    connection: sa.Connection, database: Database, wanted: Filter, *, before: int | None, limit: int
) -> Page:
    """The newest rows with a smaller number than `before`."""
    terms = terms_of(wanted.search)
    # Few rows are looked at sooner than found among all that have the words.
    indexed = [] if terms and _has_few(connection, wanted.key) else terms
    source = database.sought(INTERACTIONS, indexed)
    query = (
        sa.select(source.number.label("number"), *_COLUMNS)
        .select_from(source.table)
        .where(*source.conditions, *_equalities(wanted), *_bounds(wanted, source.number))
        .where(*(_is_in_either(database, term) for term in terms))
        .order_by(source.number.desc())
        .limit(limit + 1)
        .execution_options(stream_results=True, max_row_buffer=_ROWS_AT_ONCE)
    )
    if before is not None:
        query = query.where(source.number < before)
    rows: list[Interaction] = []
    characters, last = 0, 0
    with connection.execute(query) as result:
        for number, *values in result:
            if len(rows) == limit or characters > _PAGE_CHARACTERS:
                return Page(rows, last)
            row = Interaction(**dict(zip(_FIELDS, values, strict=True)))
            characters += len(row.prompt) + len(row.response)
            rows.append(row)
            last = number
    return Page(rows, None)


def read_one(connection: sa.Connection, job_id: str, key: str | None) -> Interaction | None:
    query = sa.select(*_COLUMNS).where(INTERACTIONS.c.id == storable(job_id))
    if key is not None:
        query = query.where(INTERACTIONS.c.key == storable(key))
    row = connection.execute(query).mappings().one_or_none()
    return Interaction(**row) if row else None


def conditions(
    wanted: Filter, ids: Sequence[str] | None = None
) -> Iterator[sa.ColumnElement[bool]]:
    """Of the rows themselves, whatever is searched for in their texts."""
    yield from _equalities(wanted)
    yield from _bounds(wanted, INTERACTIONS.c.number)
    if ids is not None:
        yield INTERACTIONS.c.id.in_([storable(job_id) for job_id in ids])


def _equalities(wanted: Filter) -> Iterator[sa.ColumnElement[bool]]:
    for name in ("key", "model", "status", "finish_reason"):
        value = getattr(wanted, name)
        if value is not None:
            yield INTERACTIONS.c[name] == storable(value)


def _bounds(wanted: Filter, number: sa.ColumnElement[int]) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.since is not None:
        yield number >= first_number(wanted.since)
    if wanted.until is not None:
        yield number < first_number(wanted.until)


def _has_few(connection: sa.Connection, key: str | None) -> bool:
    if key is None:
        return False
    of_key = sa.select(sa.literal(1)).select_from(INTERACTIONS)
    some = of_key.where(INTERACTIONS.c.key == storable(key)).limit(_FEW).subquery()
    found: int = connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
    return found < _FEW


def _is_in_either(database: Database, term: str) -> sa.ColumnElement[bool]:
    columns = INTERACTIONS.c.prompt, INTERACTIONS.c.response
    return sa.or_(*(database.contains(column, term) for column in columns))
