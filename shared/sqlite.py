"""SQLite, made safe for several writing processes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.engine.interfaces import DBAPIConnection

from shared.database import TRIGRAM, Database, Source

BUSY_TIMEOUT_MS: Final = 2_000
"""How long a writer waits for another one."""
TIMEOUT: Final = 10.0
"""Seconds after which a reader gives up: whoever asked has."""
_WAL_PAUSE_SECONDS: Final = 0.01
_STEPS: Final = 100_000
"""Of SQLite's machine between two looks at the clock: a few milliseconds."""
_INDEX: Final = "interactions_fts"
_MAX_TRIGRAMS: Final = 32
"""Of a search; more would find hardly less."""


class SQLite(Database):
    """Readers do not block writers (WAL), and a writer asks for the lock when it begins.

    One that reads first and upgrades later would fail instead of waiting.
    """

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
        self._line: sqlite3.Connection | None = None
        self._line_identity: object = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            line = cast("sqlite3.Connection", connection.connection.dbapi_connection)
            deadline = time.monotonic() + TIMEOUT
            line.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            try:
                yield connection
            finally:
                line.set_progress_handler(None, 0)

    def finds_at_once(self, query: str) -> bool | None:
        """Nobody makes a reader wait here, and a page that is asked for so often is in memory."""
        try:
            identity = self.identity()
            if self._line is None or identity != self._line_identity:
                self._hang_up()
                address = f"{Path(self.engine.url.database or '').absolute().as_uri()}?mode=ro"
                self._line = sqlite3.connect(
                    address, uri=True, timeout=0, isolation_level=None, check_same_thread=False
                )
                self._line_identity = identity
            return self._line.execute(query).fetchone() is not None
        except sqlite3.Error:
            self._hang_up()
            return None

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self.engine.execution_options(writes=True).begin() as connection:
            yield connection

    migrating = writing

    def insert(self, table: sa.TableClause) -> Insert:
        return insert(table)

    def sought(self, table: sa.TableClause, terms: Sequence[str]) -> Source:
        """The index first: it finds rows in their order, so that a page is there at once."""
        trigrams = sorted(
            {term[i : i + TRIGRAM] for term in terms for i in range(len(term) - TRIGRAM + 1)}
        )
        if not trigrams:
            return Source(table, table.c.number)
        quoted = ('"' + each.replace('"', '""') + '"' for each in trigrams[:_MAX_TRIGRAMS])
        index = sa.table(_INDEX, sa.column("rowid", sa.Integer), sa.column(_INDEX))
        return Source(
            index.join(table, table.c.number == index.c.rowid),
            index.c.rowid,
            [index.c[_INDEX].op("MATCH", is_comparison=True)(" AND ".join(quoted))],
        )

    def contains(self, column: sa.ColumnElement[str], term: str) -> sa.ColumnElement[bool]:
        return column.contains(term, autoescape=True)  # its LIKE ignores the case of ASCII

    def scrub(self) -> None:
        """Empty the log beside the file, where it still is: at once, or not if anybody reads."""
        line = sqlite3.connect(self.engine.url.database or ":memory:", timeout=0)
        with closing(line), suppress(sqlite3.OperationalError):  # locked; the next one does it
            line.execute("PRAGMA wal_checkpoint = TRUNCATE")

    def identity(self) -> tuple[int, int] | None:
        """Device and inode; None if it is in no file, or the file is gone."""
        path = self.engine.url.database
        if not path:
            return None
        try:
            found = os.stat(path)  # noqa: PTH116 (for each request that is asked for a key)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _on_connect(connection: DBAPIConnection, _: Any) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


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
