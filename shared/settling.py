"""Writing rows, so that each job counts once however often its row is written.

Everything here runs in a transaction that is alone (`Database.writing`): what it reads holds
until it has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec
import sqlalchemy as sa

from shared.database import Database, storable
from shared.history import INTERACTIONS
from shared.interaction import Interaction
from shared.numbering import new_numbers
from shared.usage import USAGE

_TOKENS: Final = ("prompt_tokens", "cached_tokens", "completion_tokens")
_COUNTED: Final = ("id", "attempts", *_TOKENS)
_COUNTS: Final = ("requests", *_TOKENS)
_TOMBSTONES: Final = sa.table(
    "tombstones", *(sa.column(name) for name in (*_COUNTED, "deleted_at"))
)
MAX_ROWS: Final = 250
"""At a time: databases bound the parameters of a statement, and others wait for us."""

_MAX_CHARACTERS: Final = 1_000_000
"""Of the texts in a transaction: sent and indexed long before it is given up."""

_Row: TypeAlias = Mapping[Any, Any]


def batches(rows: Iterable[Interaction]) -> Iterator[list[Interaction]]:
    """What is written in a transaction; at least one row."""
    batch: list[Interaction] = []
    characters = 0
    for row in rows:
        size = len(row.prompt) + len(row.response)
        if len(batch) == MAX_ROWS or (batch and characters + size > _MAX_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += size
    if batch:
        yield batch


def write(connection: sa.Connection, database: Database, rows: Sequence[Interaction]) -> None:
    """Insert or replace at most `MAX_ROWS` rows of as many jobs, and add to the usage.

    A row never replaces one of a later attempt: a worker that was thought dead may wake right
    here. That of a job whose row was deleted counts, and is not written.
    """
    ids = [row.id for row in rows]
    written = _known(connection, INTERACTIONS, ids, ["number", *_COUNTED])
    buried = _known(connection, _TOMBSTONES, ids, _COUNTED)
    known = written | buried
    news = [row for row in rows if row.id not in known or known[row.id]["attempts"] <= row.attempts]
    number_of = {job_id: row["number"] for job_id, row in written.items()}
    number_of |= new_numbers(connection, [row for row in news if row.id not in known])
    alive = [row for row in news if row.id not in buried]
    _upsert(connection, database, [_values(row) | {"number": number_of[row.id]} for row in alive])
    _bury(connection, database, [_values(row) for row in news if row.id in buried])
    _count(connection, database, news, known)


def remove(
    connection: sa.Connection, database: Database, which: Iterable[sa.ColumnElement[bool]]
) -> int:
    """Delete at most `MAX_ROWS` of these rows, the oldest first; returns how many.

    What they have used stays counted.
    """
    columns = [INTERACTIONS.c[name] for name in ("number", *_COUNTED)]
    query = sa.select(*columns).where(*which).order_by(INTERACTIONS.c.number).limit(MAX_ROWS)
    found = connection.execute(query).mappings().all()
    _bury(connection, database, found)
    numbers = [row["number"] for row in found]
    connection.execute(sa.delete(INTERACTIONS).where(INTERACTIONS.c.number.in_(numbers)))
    return len(found)


def forget_deleted(connection: sa.Connection, before: datetime) -> None:
    """Take away the tombstones of jobs of which nobody can write a row any more."""
    connection.execute(sa.delete(_TOMBSTONES).where(_TOMBSTONES.c.deleted_at < before.isoformat()))


def _known(
    connection: sa.Connection, table: sa.TableClause, ids: Sequence[str], columns: Sequence[str]
) -> dict[str, _Row]:
    query = sa.select(*(table.c[name] for name in columns)).where(table.c.id.in_(ids))
    return {row["id"]: row for row in connection.execute(query).mappings()}


def _values(row: Interaction) -> dict[str, Any]:
    return {
        name: storable(value) if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(row).items()
    }


def _upsert(connection: sa.Connection, database: Database, rows: Sequence[_Row]) -> None:
    if not rows:
        return
    insertion = database.insert(INTERACTIONS)
    changed = {column.name: column for column in insertion.excluded if column.name != "number"}
    upsert = insertion.on_conflict_do_update(index_elements=["id"], set_=changed)
    connection.execute(upsert, rows)


def _bury(connection: sa.Connection, database: Database, rows: Sequence[_Row]) -> None:
    if not rows:
        return
    now = datetime.now(UTC).isoformat()
    insertion = database.insert(_TOMBSTONES)
    columns = {name: insertion.excluded[name] for name in (*_COUNTED, "deleted_at")}
    connection.execute(
        insertion.on_conflict_do_update(index_elements=["id"], set_=columns),
        [{name: row[name] for name in _COUNTED} | {"deleted_at": now} for row in rows],
    )


def _count(
    connection: sa.Connection,
    database: Database,
    rows: Sequence[Interaction],
    known: Mapping[str, _Row],
) -> None:
    """Add what the rows have that was not counted yet."""
    if not rows:
        return
    added: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in rows:
        before = known.get(row.id)
        counter = row.day, storable(row.key), storable(row.model)
        sums = added.setdefault(counter, dict.fromkeys(_COUNTS, 0))
        sums["requests"] += before is None
        for name in _TOKENS:
            sums[name] += getattr(row, name) - (before[name] if before else 0)
    insertion = database.insert(USAGE)
    counted = {name: USAGE.c[name] + insertion.excluded[name] for name in _COUNTS}
    connection.execute(
        insertion.on_conflict_do_update(index_elements=["day", "key", "model"], set_=counted),
        [
            {"day": day, "key": key, "model": model, **counts}
            for (day, key, model), counts in added.items()
        ],
    )
