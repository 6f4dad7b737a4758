"""Where keys are written down: a table of the interactions database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa

from shared import keys
from shared.database import Database, translated
from shared.databases import database_at
from shared.errors import KeyNotFoundError, SettingsError, StoreAwayError
from shared.keys import Allowance, Key, Token
from shared.listen import is_loopback
from shared.logging import get_logger
from shared.settings import PREFIX, Settings

T = TypeVar("T")

_ANY: Final = "SELECT 1 FROM api_keys LIMIT 1"
_ALLOWANCES: Final = Allowance.__struct_fields__
_keys: Final = sa.table(
    "api_keys",
    *(sa.column(name) for name in Key.__struct_fields__ if name != "allowance"),
    *(sa.column(name) for name in _ALLOWANCES),
)


class KeyBook:
    """Every method raises StoreError if the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, settings: Settings, *, patient: bool = False) -> KeyBook:
        """Connect and bring the schema up to date.

        `patient`: a database that is away is opened by whoever looks first when it is back.

        Raises:
            StoreError: the database can't be opened, or is newer than this program.
        """
        database = database_at(settings.effective_database_url, keeps_connection=True)
        try:
            database.make_ready()
        except StoreAwayError as error:
            if not patient:
                raise
            get_logger().error("the keys are away", reason=str(error))
        return cls(database)

    def find(self, key_id: str) -> Key | None:
        found = self._read(_those(sa.select(_keys).where(_keys.c.id == key_id)))
        return found[0] if found else None

    def exists(self) -> bool:
        """Whether any key was ever made. One that was revoked counts."""
        return self._read(_is_there_any)

    def is_empty_at_once(self) -> bool:
        """Whether surely no key was ever made; False: there may be some, so look."""
        return self._database.finds_at_once(_ANY) is False

    def all(self) -> list[Key]:
        """The oldest first."""
        return self._read(_those(sa.select(_keys).order_by(_keys.c.created_at, _keys.c.id)))

    def create(
        self,
        name: str,
        allowance: Allowance | None = None,
        *,
        admin: bool = False,
        expires_at: str | None = None,
    ) -> Token:
        """Make a key; what is returned is kept nowhere."""
        token = keys.new_token()
        key = Key(
            id=token.id,
            name=name,
            digest=keys.digest(token.secret),
            admin=admin,
            allowance=allowance or Allowance(),
            created_at=keys.now(),
            expires_at=expires_at,
        )
        self._write(sa.insert(_keys).values(_row(key)))
        return token

    def rotate(self, key_id: str, *, grace: float = 0) -> Token:
        """Give a key a new secret; the old one counts for `grace` seconds more.

        Raises:
            KeyNotFoundError: there is no such key, or it is revoked.
        """
        token = keys.new_token(key_id)
        changes: dict[str, Any] = {
            # The database's own: another rotation may be going on.
            "former_digest": _keys.c.digest if grace else None,
            "former_until": keys.in_seconds(grace) if grace else None,
            "digest": keys.digest(token.secret),
            "rotated_at": keys.now(),
        }
        self._change(key_id, changes)
        return token

    def revoke(self, key_id: str) -> None:
        """From here on it opens nothing. Its record stays, for what it has made.

        Raises:
            KeyNotFoundError: there is no such key, or it is revoked.
        """
        self._change(key_id, {"revoked_at": keys.now()})

    def close(self) -> None:
        self._database.close()

    def _change(self, key_id: str, changes: dict[str, Any]) -> None:
        is_it = (_keys.c.id == key_id) & _keys.c.revoked_at.is_(None)
        if not self._write(sa.update(_keys).where(is_it).values(changes)):
            raise KeyNotFoundError(f"There is no key {key_id} that is not revoked.")

    def _write(self, statement: sa.Insert | sa.Update) -> int:
        """Rows that were written."""
        self._database.make_ready()
        with translated(), self._database.writing() as connection:
            return connection.execute(statement).rowcount

    def _read(self, query: Callable[[sa.Connection], T]) -> T:
        try:
            return self._look(query)
        except StoreAwayError:
            return self._look(query)  # a connection of before the server's restart

    def _look(self, query: Callable[[sa.Connection], T]) -> T:
        self._database.make_ready()
        with translated(), self._database.glancing() as connection:
            return query(connection)


def _those(query: sa.Select[Any]) -> Callable[[sa.Connection], list[Key]]:
    return lambda connection: [_key(dict(row)) for row in connection.execute(query).mappings()]


def _is_there_any(connection: sa.Connection) -> bool:
    """As text: where nobody has a key, every request waits for this."""
    found = connection.exec_driver_sql(_ANY)
    return found.first() is not None


def require_some(settings: Settings, book: KeyBook) -> None:
    """Refuse to serve everybody by accident.

    Raises:
        SettingsError: others would reach the service, and there is no key; says what to do.
        StoreError: nobody knows.
    """
    if settings.auth == "auto" and not is_loopback(settings.reached_at) and not book.exists():
        raise SettingsError(
            f"The API would be reached at {settings.reached_at} by others than this machine, and "
            f"there is no key. Make one with `minivault keys create NAME`, or set {PREFIX}AUTH: "
            "to `required`, to start and let nobody in until there is one; to `open`, to let "
            "everybody in until then."
        )


def _row(key: Key) -> dict[str, Any]:
    row = msgspec.structs.asdict(key)
    row |= msgspec.structs.asdict(row.pop("allowance"))
    models = row["models"]
    return row | {
        "admin": int(key.admin),
        "models": None if models is None else ",".join(models),
    }


def _key(row: dict[str, Any]) -> Key:
    allowed = {name: row.pop(name) for name in _ALLOWANCES}
    if allowed["models"] is not None:
        allowed["models"] = tuple(allowed["models"].split(","))
    return Key(**row | {"admin": bool(row["admin"]), "allowance": Allowance(**allowed)})
