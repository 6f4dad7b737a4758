"""Every interaction, one row a job. Workers write it; the command line reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from shared.database import Database, translated
from shared.errors import StoreAwayError, StoreError
from shared.logging import get_logger
from shared.migrations import is_current, migrate
from shared.postgres import PostgreSQL
from shared.settings import PREFIX, Settings
from shared.sqlite import SQLite


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
        self._is_open = False
        self._identity: object = None
        """Of what was opened."""

    @classmethod
    def open(cls, settings: Settings, *, patient: bool = False) -> Store:
        """Connect and bring the schema up to date.

        `patient`: a database that is away is opened by the first `save` that finds it.

        Raises:
            StoreError: the database can't be opened, or is newer than this program.
        """
        store = cls(_database(settings.effective_database_url))
        try:
            store._migrate()
        except StoreAwayError as error:
            if not patient:
                raise
            get_logger().error("the store is away", reason=str(error))
        return store

    def save(self, rows: Sequence[Interaction]) -> None:
        """Write rows in one transaction. A job's second row replaces its first.

        Not one of a later attempt: a worker that was thought dead may wake right here.

        Raises:
            StoreError: the database refused; nothing was written.
        """
        self._reopen()
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

    def _migrate(self) -> None:
        with translated():
            with self._database.reading() as connection:
                current = is_current(connection)
            if not current:
                with self._database.migrating() as connection:
                    migrate(connection)
        self._identity = self._database.identity()
        self._is_open = True

    def _reopen(self) -> None:
        """Where it was away at first, or is elsewhere by now.

        SQLite goes on writing to a file that was deleted or replaced: nobody would see it.

        Raises:
            StoreError: its folder is gone. It is not made again, for it may be a volume that
                comes back.
        """
        if self._is_open and self._database.identity() == self._identity:
            return
        self._database.engine.dispose()
        self._migrate()


def _database(address: str) -> Database:
    url = sa.make_url(address)
    if url.get_backend_name() == "sqlite":
        return SQLite(sa.create_engine(url))
    try:
        return PostgreSQL(sa.create_engine(url, **PostgreSQL.engine_options()))
    except ImportError as error:
        raise StoreError(
            f"{PREFIX}DATABASE_URL needs psycopg, which can't be loaded ({error}): "
            "pip install 'minivault[postgres]'"
        ) from error
