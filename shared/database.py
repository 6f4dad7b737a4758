"""What the store asks of a database, beside SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from shared.errors import StoreAwayError, StoreError
from shared.migrations import is_current, migrate

TRIGRAM: Final = 3
"""Characters that the indexes of the texts take at a time; they know of nothing shorter."""


class Source(NamedTuple):
    """What to select rows from."""

    table: sa.FromClause
    number: sa.ColumnElement[int]
    """By which it is ordered without being sorted."""
    conditions: Sequence[sa.ColumnElement[bool]] = ()


class Database(ABC):
    """One database of one kind, shared by many processes."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._lock = Lock()
        self._is_ready = False
        self._identity: object = None
        """Of what was made ready."""

    def make_ready(self) -> None:
        """Bring the schema up to date, where it was away at first or is elsewhere by now.

        SQLite goes on writing to a file that was deleted or replaced: nobody would see it.

        Raises:
            StoreError: it can't be opened, is newer than this program, or its folder is gone. That
                is not made again, for it may be a volume that comes back.
        """
        with self._lock:
            if not (self._is_ready and self.identity() == self._identity):
                self._make_ready()

    def close(self) -> None:
        self.engine.dispose()

    def _make_ready(self) -> None:
        self.engine.dispose()
        with translated():
            with self.reading() as connection:
                current = is_current(connection)
            if not current:
                with self.migrating() as connection:
                    migrate(connection)
        self._identity = self.identity()
        self._is_ready = True

    @abstractmethod
    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A connection for a look of seconds: it does not wait for those who write."""

    def glancing(self) -> AbstractContextManager[sa.Connection]:
        """A connection for one statement that reads, with as few round trips as that needs."""
        return self.reading()

    def finds_at_once(self, query: str) -> bool | None:
        """Whether a query finds any row, where that is known without a wait; None: it is not.

        For one thread, which may be that of an event loop.
        """
        del query
        return None

    @abstractmethod
    def writing(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that is alone, after a wait that is never long: streams wait for it."""

    @abstractmethod
    def migrating(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that one process at a time is in. It may take long."""

    @abstractmethod
    def insert(self, table: sa.TableClause) -> Any:
        """SQLAlchemy's insertion with `ON CONFLICT`, which is the dialect's own."""

    @abstractmethod
    def sought(self, table: sa.TableClause, terms: Sequence[str]) -> Source:
        """Where the rows are that may have all the terms in their texts.

        None that has them is missing; whether one has, is for the caller to look at.
        """

    @abstractmethod
    def contains(self, column: sa.ColumnElement[str], term: str) -> sa.ColumnElement[bool]:
        """Whether a text has the term in it, as it is, whatever its case."""

    @abstractmethod
    def scrub(self) -> None:
        """Have nothing left of what was deleted, as far as that is ours to do."""

    def identity(self) -> object:
        """Of what a reader finds under the name; None where it can't become something else."""
        return None


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = " ".join(_reason(getattr(error, "orig", None) or error).split())
        kind = StoreAwayError if isinstance(error, sa.exc.OperationalError) else StoreError
        raise kind(f"The interactions database failed: {reason}") from error


def _reason(error: BaseException) -> str:
    # What PostgreSQL adds to it in detail may be a whole row, prompt and all.
    diagnosis = getattr(error, "diag", None)
    return getattr(diagnosis, "message_primary", None) or str(error)


def storable(text: str) -> str:
    """What a database can hold of a text.

    UTF-8 has no halves of surrogate pairs, PostgreSQL no U+0000, and SQLite's index and tools
    end there. U+FFFD stands for each, as in HTML and CommonMark.
    """
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
