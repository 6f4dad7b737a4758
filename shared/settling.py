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
_IDS: Final = sa.bindparam("ids", type_=sa.Text, expanding=True)
_KNOWN: Final = sa.union_all(
    sa.select(*(INTERACTIONS.c[name] for name in ("number", *_COUNTED))).where(
        INTERACTIONS.c.id.in_(_IDS)
    ),
    sa.select(sa.cast(sa.null(), sa.BigInteger), *(_TOMBSTONES.c[name] for name in _COUNTED)).where(
        _TOMBSTONES.c.id.in_(_IDS)
    ),
)
"""What has been counted of some jobs; what was deleted has no number."""
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


class Settling:
    """Writes to one database. Statements are made once: that takes longer than to run them."""

    def __init__(self, database: Database) -> None:
        insertion = database.insert(INTERACTIONS)
        changed = {column.name: column for column in insertion.excluded if column.name != "number"}
        self._upsert = insertion.on_conflict_do_update(index_elements=["id"], set_=changed)
        insertion = database.insert(_TOMBSTONES)
        buried = {name: insertion.excluded[name] for name in (*_COUNTED, "deleted_at")}
        self._bury = insertion.on_conflict_do_update(index_elements=["id"], set_=buried)
        insertion = database.insert(USAGE)
        counted = {name: USAGE.c[name] + insertion.excluded[name] for name in _COUNTS}
        self._count = insertion.on_conflict_do_update(
            index_elements=["day", "key", "model"], set_=counted
        )

    def write(self, connection: sa.Connection, rows: Sequence[Interaction]) -> None:
        """Insert or replace at most `MAX_ROWS` rows of as many jobs, and add to the usage.

        A row never replaces one of a later attempt: a worker that was thought dead may wake right
        here. That of a job whose row was deleted counts, and is not written.
        """
        ids = {"ids": [row.id for row in rows]}
        found = connection.execute(_KNOWN, ids).mappings().all()
        written = {row["id"]: row for row in found if row["number"] is not None}
        buried = {row["id"]: row for row in found if row["number"] is None}
        known = written | buried
        news = [
            row for row in rows if row.id not in known or known[row.id]["attempts"] <= row.attempts
        ]
        number_of = {job_id: row["number"] for job_id, row in written.items()}
        number_of |= new_numbers(connection, [row for row in news if row.id not in known])
        alive = [row for row in news if row.id not in buried]
        if alive:
            values = [_values(row) | {"number": number_of[row.id]} for row in alive]
            connection.execute(self._upsert, values)
        self._keep_tombs(connection, [_values(row) for row in news if row.id in buried])
        self._add_usage(connection, news, known)

    def remove(self, connection: sa.Connection, which: Iterable[sa.ColumnElement[bool]]) -> int:
        """Delete at most `MAX_ROWS` of these rows, the oldest first; returns how many.

        What they have used stays counted.
        """
        columns = [INTERACTIONS.c[name] for name in ("number", *_COUNTED)]
        query = sa.select(*columns).where(*which).order_by(INTERACTIONS.c.number).limit(MAX_ROWS)
        found = connection.execute(query).mappings().all()
        self._keep_tombs(connection, found)
        numbers = [row["number"] for row in found]
        connection.execute(sa.delete(INTERACTIONS).where(INTERACTIONS.c.number.in_(numbers)))
        return len(found)

    def _keep_tombs(self, connection: sa.Connection, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        now = {"deleted_at": datetime.now(UTC).isoformat()}
        tombs = [{name: row[name] for name in _COUNTED} | now for row in rows]
        connection.execute(self._bury, tombs)

    def _add_usage(
        self, connection: sa.Connection, rows: Sequence[Interaction], known: Mapping[str, _Row]
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
        connection.execute(
            self._count,
            [
                {"day": day, "key": key, "model": model, **counts}
                for (day, key, model), counts in added.items()
            ],
        )


def forget_deleted(connection: sa.Connection, before: datetime) -> None:
    """Take away the tombstones of jobs of which nobody can write a row any more."""
    connection.execute(sa.delete(_TOMBSTONES).where(_TOMBSTONES.c.deleted_at < before.isoformat()))


def _values(row: Interaction) -> dict[str, Any]:
    return {
        name: storable(value) if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(row).items()
    }
