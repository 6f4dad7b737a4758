"""The database that a URL names, of whichever kind."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from shared.database import Database
from shared.errors import StoreError
from shared.postgres import PostgreSQL
from shared.settings import PREFIX
from shared.sqlite import SQLite

_KEPT_SECONDS: Final = 300
"""Less than firewalls wait before they forget a connection without a word."""


def database_at(address: str, *, keeps_connection: bool = False) -> Database:
    """Connects on first use.

    `keeps_connection`: for whoever asks often and for little, such as who a key belongs to.

    Raises:
        StoreError: its driver can't be loaded.
    """
    url = sa.make_url(address)
    if url.get_backend_name() == "sqlite":
        return SQLite(sa.create_engine(url))
    options = PostgreSQL.engine_options()
    if keeps_connection:
        options |= {"poolclass": sa.QueuePool, "pool_size": 1, "pool_recycle": _KEPT_SECONDS}
    try:
        return PostgreSQL(sa.create_engine(url, **options))
    except ImportError as error:
        raise StoreError(
            f"{PREFIX}DATABASE_URL needs psycopg, which can't be loaded ({error}): "
            "pip install 'minivault[postgres]'"
        ) from error
