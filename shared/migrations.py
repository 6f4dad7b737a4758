"""The database schema as a list of steps. Append to it; never change a step that shipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import sqlalchemy as sa

from shared.errors import StoreError

Migration: TypeAlias = Callable[[sa.Connection], None]


def m001_interactions(connection: sa.Connection) -> None:
    # PostgreSQL's REAL has 32 bits; to SQLite both names are one type.
    connection.exec_driver_sql(
        """
        CREATE TABLE interactions (
            id                TEXT PRIMARY KEY,
            request_id        TEXT NOT NULL,
            client            TEXT NOT NULL,
            model             TEXT NOT NULL,
            prompt            TEXT NOT NULL,
            response          TEXT NOT NULL,
            parameters        TEXT NOT NULL,
            status            TEXT NOT NULL,
            finish_reason     TEXT NOT NULL,
            error             TEXT,
            attempts          INTEGER NOT NULL,
            prompt_tokens     INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            queue_seconds     DOUBLE PRECISION NOT NULL,
            prefill_seconds   DOUBLE PRECISION NOT NULL,
            decode_seconds    DOUBLE PRECISION NOT NULL,
            total_seconds     DOUBLE PRECISION NOT NULL,
            created_at        TEXT NOT NULL,
            finished_at       TEXT NOT NULL
        )
        """
    )
    connection.exec_driver_sql("CREATE INDEX interactions_by_creation ON interactions (created_at)")


def m003_keys(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        """
        CREATE TABLE api_keys (
            id            TEXT PRIMARY KEY,
            name          TEXT NOT NULL,
            digest        TEXT NOT NULL,
            former_digest TEXT,
            former_until  TEXT,
            admin         INTEGER NOT NULL,
            rate          TEXT,
            max_in_flight INTEGER,
            daily_tokens  BIGINT,
            max_priority  INTEGER,
            models        TEXT,
            created_at    TEXT NOT NULL,
            expires_at    TEXT,
            rotated_at    TEXT,
            revoked_at    TEXT
        )
        """
    )


MIGRATIONS: Final[Sequence[Migration]] = (m001_interactions, m003_keys)


def is_current(connection: sa.Connection) -> bool:
    """Whether there is nothing to do: found out by reading, since another may be writing.

    Raises:
        StoreError: the database was written by a newer MiniVault.
    """
    if not sa.inspect(connection).has_table("schema_version"):
        return False
    return _version(connection) == len(MIGRATIONS)


def migrate(connection: sa.Connection) -> None:
    """Bring the schema up to date, inside the caller's write transaction.

    Raises:
        StoreError: the database was written by a newer MiniVault.
    """
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)")
    version = _version(connection)
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        step(connection)
        connection.execute(
            sa.text("INSERT INTO schema_version (version) VALUES (:version)"), {"version": number}
        )


def _version(connection: sa.Connection) -> int:
    version = connection.exec_driver_sql("SELECT max(version) FROM schema_version").scalar() or 0
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The database has schema version {version}; this MiniVault knows up to "
            f"{len(MIGRATIONS)}. Update MiniVault or use another data folder."
        )
    return int(version)
