"""SQLite, made safe for several writing processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.engine.interfaces import DBAPIConnection

from shared.database import Database, without_surrogates

BUSY_TIMEOUT_MS: Final = 2_000
"""How long a writer waits for another one."""
_WAL_PAUSE_SECONDS: Final = 0.01


class SQLite(Database):
    """Readers do not block writers (WAL), and a writer asks for the lock when it begins.

    One that reads first and upgrades later would fail instead of waiting.
    """

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)

    def reading(self) -> sa.Connection:
        return self.engine.connect()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self.engine.execution_options(writes=True).begin() as connection:
            yield connection

    migrating = writing

    def insert(self, table: sa.TableClause) -> Insert:
        return insert(table)

    def storable(self, text: str) -> str:
        return without_surrogates(text)

    def identity(self) -> tuple[int, int] | None:
        """Device and inode; None if it is in no file, or the file is gone."""
        path = self.engine.url.database
        if not path:
            return None
        try:
            found = Path(path).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _on_connect(connection: DBAPIConnection, _: Any) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")


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
