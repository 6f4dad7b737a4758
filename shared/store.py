"""Every interaction, one row a job. Workers write it; the command line reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from shared.database import Database, translated
from shared.databases import database_at
from shared.errors import StoreAwayError
from shared.logging import get_logger
from shared.settings import Settings


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """A finished job. Times of day are ISO 8601 in UTC, durations seconds."""

    id: str
    request_id: str
    client: str
    model: str
    prompt: str
    response: str
    """What the client received."""
    parameters: str
    """The sampling parameters as JSON."""
    status: str
    finish_reason: str
    error: str | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    created_at: str
    finished_at: str


_interactions: Final = sa.table(
    "interactions", *(sa.column(name) for name in Interaction.__struct_fields__)
)


class Store:
    """The `interactions` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, settings: Settings, *, patient: bool = False) -> Store:
        """Connect and bring the schema up to date.

        `patient`: a database that is away is opened by the first `save` that finds it.

        Raises:
            StoreError: the database can't be opened, or is newer than this program.
        """
        database = database_at(settings.effective_database_url)
        try:
            database.make_ready()
        except StoreAwayError as error:
            if not patient:
                raise
            get_logger().error("the store is away", reason=str(error))
        return cls(database)

    def save(self, rows: Sequence[Interaction]) -> None:
        """Write rows in one transaction. A job's second row replaces its first.

        Not one of a later attempt: a worker that was thought dead may wake right here.

        Raises:
            StoreError: the database refused; nothing was written.
        """
        self._database.make_ready()
        new = {row.id: self._storable(row) for row in rows}
        upsert = self._database.upsert(_interactions, key="id", rank="attempts")
        with translated(), self._database.writing() as connection:
            # In one order everywhere: two that write the same rows never wait for each other.
            connection.execute(upsert, [new[job_id] for job_id in sorted(new)])

    def recent(self, limit: int, search: str | None = None) -> list[Interaction]:
        """The newest rows first; `search` keeps those whose prompt or response contains it."""
        query = sa.select(_interactions).order_by(_interactions.c.created_at.desc()).limit(limit)
        if search:
            sought = self._database.storable(search)
            query = query.where(
                _interactions.c.prompt.icontains(sought, autoescape=True)
                | _interactions.c.response.icontains(sought, autoescape=True)
            )
        with translated(), self._database.engine.connect() as connection:
            return [Interaction(**row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        self._database.engine.dispose()

    def _storable(self, row: Interaction) -> dict[str, Any]:
        return {
            name: self._database.storable(value) if isinstance(value, str) else value
            for name, value in msgspec.structs.asdict(row).items()
        }
