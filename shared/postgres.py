"""PostgreSQL, of this machine or another, which may stop answering at any moment."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Insert, insert

from shared.database import TRIGRAM, Database, Source

CONNECT_TIMEOUT: Final = 2
"""Seconds; also for a server that takes the connection and then says nothing."""
LOCK_TIMEOUT_MS: Final = 2_000
"""How long a writer waits for another one."""
TIMEOUT: Final = 10.0
"""Seconds after which a transaction is given up, whatever the server does: it may have been
paused, or the network may swallow everything. Enough for a full batch over a slow line."""
_MIGRATION_LOCK: Final = 0x6D696E69
_WRITING_LOCK: Final = 0x6D696E6A
"""Any numbers that nobody else uses in this database."""


class PostgreSQL(Database):
    """Connects anew for every transaction.

    Whatever happened to the server since the last one, there is no connection left of it that
    would have to be noticed as broken. It is a few milliseconds a batch, off every stream's way.
    """

    @classmethod
    def engine_options(cls) -> dict[str, object]:
        return {
            "poolclass": sa.NullPool,
            "connect_args": {
                "connect_timeout": CONNECT_TIMEOUT,
                "client_encoding": "utf8",
                "application_name": "minivault",
            },
        }

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection, _deadline(connection):
            yield connection

    @contextmanager
    def glancing(self) -> Iterator[sa.Connection]:
        with self.reading() as connection:  # neither begun nor rolled back
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self.reading() as connection, connection.begin():
            # Not as options of the connection: some poolers refuse those. Whoever stops in the
            # middle must not keep the others out for ever.
            connection.exec_driver_sql(
                f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
                f"SET LOCAL statement_timeout = {TIMEOUT * 1000:.0f}; "
                f"SET LOCAL idle_in_transaction_session_timeout = {TIMEOUT * 1000:.0f}"
            )
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITING_LOCK)))
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            yield connection

    def insert(self, table: sa.TableClause) -> Insert:
        return insert(table)

    def sought(self, table: sa.TableClause, terms: Sequence[str]) -> Source:
        """The planner knows whether to begin at the index or at the newest row."""
        trigrams = sa.func.minivault_trigrams
        indexed = trigrams(table.c.prompt, table.c.response)
        contains = indexed.op("@>", is_comparison=True)
        long = [term for term in terms if len(term) >= TRIGRAM]
        return Source(table, table.c.number, [contains(trigrams(term, "")) for term in long])

    def contains(self, column: sa.ColumnElement[str], term: str) -> sa.ColumnElement[bool]:
        return column.icontains(term, autoescape=True)

    def scrub(self) -> None:
        """Autovacuum does it."""


@contextmanager
def _deadline(connection: sa.Connection) -> Iterator[None]:
    """Break the connection off after `TIMEOUT`: neither libpq nor psycopg stops waiting."""
    descriptor = connection.connection.dbapi_connection.pgconn.socket  # type: ignore[union-attr]
    with socket.socket(fileno=os.dup(descriptor)) as line:
        timer = Timer(TIMEOUT, _break_off, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _break_off(line: socket.socket) -> None:
    with suppress(OSError):  # over in the same moment
        line.shutdown(socket.SHUT_RDWR)
