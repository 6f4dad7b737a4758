"""Every interaction, one row a job. Workers write it; the command line reads it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from shared.errors import StoreError
from shared.migrations import is_current, migrate
from shared.settings import Settings

BUSY_TIMEOUT_MS: Final = 2_000
"""How long a writer waits for another one. Not long: what can't be written now is written later,
and streams wait for it."""
_WAL_PAUSE_SECONDS: Final = 0.01


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

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that was opened, where it is one."""

    @classmethod
    def open(cls, settings: Settings) -> Store:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: the database can't be opened, or is newer than this program.
        """
        try:
            engine = sa.create_engine(settings.effective_database_url)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise StoreError(f"The interactions database can't be opened: {error}") from error
        if engine.dialect.name == "sqlite":
            _tune_sqlite(engine)
        store = cls(engine)
        store._migrate()
        return store

    def save(self, rows: Sequence[Interaction]) -> None:
        """Write rows in one transaction. A job's second row replaces its first.

        Not one of a later attempt: a worker that was thought dead may wake right here.

        Raises:
            StoreError: the database refused; nothing was written.
        """
        self._reopen_if_moved()
        new = {row.id: row for row in rows}
        columns = _interactions.c
        with self._writing() as connection:
            stored = connection.execute(
                sa.select(columns.id, columns.attempts).where(columns.id.in_(list(new)))
            ).all()
            for job_id, attempts in stored:
                if attempts > new[job_id].attempts:
                    del new[job_id]
            if new:
                connection.execute(sa.delete(_interactions).where(columns.id.in_(list(new))))
                connection.execute(
                    sa.insert(_interactions), [msgspec.structs.asdict(row) for row in new.values()]
                )

    def recent(self, limit: int, search: str | None = None) -> list[Interaction]:
        """The newest rows first; `search` keeps those whose prompt or response contains it."""
        query = sa.select(_interactions).order_by(_interactions.c.created_at.desc()).limit(limit)
        if search:
            query = query.where(
                _interactions.c.prompt.icontains(search, autoescape=True)
                | _interactions.c.response.icontains(search, autoescape=True)
            )
        with _translated(), self._engine.connect() as connection:
            return [Interaction(**row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        self._engine.dispose()

    def _migrate(self) -> None:
        with _translated(), self._engine.connect() as connection:
            current = is_current(connection)
        if not current:
            with self._writing() as connection:
                migrate(connection)
        self._file = _identity(self._engine)

    def _reopen_if_moved(self) -> None:
        """SQLite goes on writing to a file that was deleted or replaced: nobody would see it.

        Raises:
            StoreError: its folder is gone. It is not made again, for it may be a volume that
                comes back.
        """
        if self._file is None or _identity(self._engine) == self._file:
            return
        self._engine.dispose()
        self._migrate()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _translated(), self._engine.execution_options(writes=True).begin() as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise StoreError(f"The interactions database failed: {reason}") from error


def _identity(engine: sa.Engine) -> tuple[int, int] | None:
    """Which file a SQLite database is in; None if it is in none, or the file is gone."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _tune_sqlite(engine: sa.Engine) -> None:
    """Make SQLite safe for several writing processes.

    Readers do not block writers (WAL), and a writer asks for the lock when it begins: one
    that reads first and upgrades later would fail instead of waiting.
    """

    def on_connect(connection: DBAPIConnection, _: Any) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")

    def on_begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "connect", on_connect)
    sa.event.listen(engine, "begin", on_begin)


def _use_wal(connection: sqlite3.Connection) -> None:
    """A new database is changed over by whoever opens it first.

    The others are refused at once, whatever their time-out: SQLite lets nobody wait here who
    reads already, since two of them would wait for each other.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_PAUSE_SECONDS)
        else:
            return
