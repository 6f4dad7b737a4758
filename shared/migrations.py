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


def m002_history(connection: sa.Connection) -> None:
    """Owners, numbers to page by, an index of the texts, usage, and what was deleted."""
    if connection.dialect.name == "sqlite":
        _number_in_sqlite(connection)
    else:
        _number_in_postgresql(connection)
    for column in ("key, number", "model, number", "status, number", "finish_reason, number"):
        name = column.partition(",")[0]
        connection.exec_driver_sql(
            f"CREATE INDEX interactions_by_{name} ON interactions ({column})"
        )
    connection.exec_driver_sql(
        """
        CREATE TABLE usage (
            day               TEXT NOT NULL,
            key               TEXT NOT NULL,
            model             TEXT NOT NULL,
            requests          BIGINT NOT NULL,
            prompt_tokens     BIGINT NOT NULL,
            cached_tokens     BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            PRIMARY KEY (day, key, model)
        )
        """
    )
    connection.exec_driver_sql("CREATE INDEX usage_by_key ON usage (key, day, model)")
    connection.exec_driver_sql(
        """
        INSERT INTO usage
        SELECT substr(created_at, 1, 10), key, model, count(*),
               sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens)
        FROM interactions GROUP BY 1, 2, 3
        """
    )
    # Of deleted rows: what was counted for them. They may be written once more.
    connection.exec_driver_sql(
        """
        CREATE TABLE tombstones (
            id                TEXT PRIMARY KEY,
            attempts          INTEGER NOT NULL,
            prompt_tokens     INTEGER NOT NULL,
            cached_tokens     INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            deleted_at        TEXT NOT NULL
        )
        """
    )
    connection.exec_driver_sql("CREATE INDEX tombstones_by_age ON tombstones (deleted_at)")


def _number_in_sqlite(connection: sa.Connection) -> None:
    """A table of its own number: VACUUM may change the hidden one, which the index refers to."""
    connection.exec_driver_sql("ALTER TABLE interactions RENAME TO old_interactions")
    connection.exec_driver_sql("DROP INDEX interactions_by_creation")
    connection.exec_driver_sql(
        """
        CREATE TABLE interactions (
            number            INTEGER PRIMARY KEY,
            id                TEXT NOT NULL UNIQUE,
            request_id        TEXT NOT NULL,
            client            TEXT NOT NULL,
            key               TEXT NOT NULL,
            model             TEXT NOT NULL,
            status            TEXT NOT NULL,
            finish_reason     TEXT NOT NULL,
            error             TEXT,
            attempts          INTEGER NOT NULL,
            prompt_tokens     INTEGER NOT NULL,
            cached_tokens     INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            queue_seconds     DOUBLE PRECISION NOT NULL,
            prefill_seconds   DOUBLE PRECISION NOT NULL,
            decode_seconds    DOUBLE PRECISION NOT NULL,
            total_seconds     DOUBLE PRECISION NOT NULL,
            created_at        TEXT NOT NULL,
            finished_at       TEXT NOT NULL,
            parameters        TEXT NOT NULL,
            prompt            TEXT NOT NULL,
            response          TEXT NOT NULL
        )
        """
    )
    # At least 128 for each millisecond, and more than the one before.
    connection.exec_driver_sql(
        """
        INSERT INTO interactions
        SELECT max(milliseconds * 128 - place) OVER (ORDER BY place) + place,
               id, request_id, client, '', model, status, finish_reason, error, attempts,
               prompt_tokens, 0, completion_tokens, queue_seconds, prefill_seconds,
               decode_seconds, total_seconds, created_at, finished_at, parameters,
               prompt, response
        FROM (
            SELECT *, row_number() OVER (ORDER BY milliseconds, id) AS place
            FROM (
                SELECT *, CAST(round((julianday(created_at) - 2440587.5) * 86400000) AS INTEGER)
                              AS milliseconds
                FROM old_interactions
            )
        )
        """
    )
    connection.exec_driver_sql("DROP TABLE old_interactions")
    _index_texts(connection)


def _index_texts(connection: sa.Connection) -> None:
    # Three letters at a time: finds any part of any text, in any script. Without their positions
    # it is a third as large; `LIKE` looks at what it finds (docs/decisions/0029-history.md).
    connection.exec_driver_sql(
        """
        CREATE VIRTUAL TABLE interactions_fts USING fts5 (
            prompt, response, content='interactions', content_rowid='number',
            tokenize='trigram', detail='none', columnsize=0
        )
        """
    )
    add = (
        "INSERT INTO interactions_fts (rowid, prompt, response) "
        "VALUES (new.number, new.prompt, new.response);"
    )
    remove = (
        "INSERT INTO interactions_fts (interactions_fts, rowid, prompt, response) "
        "VALUES ('delete', old.number, old.prompt, old.response);"
    )
    changed = "old.prompt <> new.prompt OR old.response <> new.response"
    for name, event, action in (
        ("added", "INSERT ON interactions", add),
        ("removed", "DELETE ON interactions", remove),
        ("changed", f"UPDATE ON interactions WHEN {changed}", remove + add),
    ):
        connection.exec_driver_sql(
            f"CREATE TRIGGER interactions_{name} AFTER {event} BEGIN {action} END"
        )
    connection.exec_driver_sql("INSERT INTO interactions_fts (interactions_fts) VALUES ('rebuild')")


def _number_in_postgresql(connection: sa.Connection) -> None:
    for statement in (
        "DROP INDEX interactions_by_creation",
        """
        ALTER TABLE interactions
            ADD number BIGINT,
            ADD key TEXT NOT NULL DEFAULT '',
            ADD cached_tokens INTEGER NOT NULL DEFAULT 0
        """,
        """
        UPDATE interactions SET number = numbered.number FROM (
            SELECT id, max(milliseconds * 128 - place) OVER (ORDER BY place) + place AS number
            FROM (
                SELECT id, milliseconds, row_number() OVER (ORDER BY milliseconds, id) AS place
                FROM (
                    SELECT id, floor(extract(epoch FROM created_at::timestamptz) * 1000)::bigint
                                   AS milliseconds
                    FROM interactions
                ) AS timed
            ) AS placed
        ) AS numbered WHERE interactions.id = numbered.id
        """,
        "ALTER TABLE interactions ALTER number SET NOT NULL",
        "CREATE UNIQUE INDEX interactions_by_number ON interactions (number)",
        # As SQLite's tokenizer does it. `pg_trgm` is not everywhere, and tsvector finds whole
        # words alone and refuses long texts; so that no text holds up its row, only the
        # beginning of very long ones is looked at.
        """
        CREATE FUNCTION minivault_trigrams(prompt TEXT, response TEXT) RETURNS TEXT[]
        LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 10000 AS $$
            SELECT coalesce(array_agg(DISTINCT a || b || c), '{}')
            FROM string_to_array(
                     lower(left(prompt, 32768) || left(response, 32768)), NULL
                 ) AS letters,
                 unnest(letters, letters[2:], letters[3:]) AS three (a, b, c)
            WHERE c IS NOT NULL
        $$
        """,
        """
        CREATE INDEX interactions_by_text ON interactions
            USING gin (minivault_trigrams(prompt, response))
        """,
    ):
        connection.exec_driver_sql(statement)


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


MIGRATIONS: Final[Sequence[Migration]] = (m001_interactions, m002_history, m003_keys)


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
