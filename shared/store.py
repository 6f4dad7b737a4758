"""Every interaction, one row a job. Workers write it; the API and the command line read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from shared.database import Database, translated
from shared.databases import database_at
from shared.errors import StoreAwayError
from shared.history import Filter, Page, conditions, read_one, read_page
from shared.interaction import Interaction, without_text
from shared.logging import get_logger
from shared.settings import Settings
from shared.settling import MAX_ROWS, Settling, batches, forget_deleted
from shared.usage import Usage, UsageFilter, UsageKey, key_of, read_usage

_PAGE: Final = 200


class Store:
    """The interactions database. Any number of threads may use it."""

    def __init__(self, database: Database, *, with_text: bool = True) -> None:
        """Without texts, rows are written that have none."""
        self._database = database
        self._settling = Settling(database)
        self._with_text = with_text

    @classmethod
    def open(cls, settings: Settings, *, patient: bool = False) -> Store:
        """Connect and bring the schema up to date.

        `patient`: a database that is away is opened by the first `save` that finds it.

        Raises:
            StoreError: the database can't be opened, or is newer than this program.
        """
        database = database_at(settings.effective_database_url)
        try:
            database.make_ready()
        except StoreAwayError as error:
            if not patient:
                raise
            get_logger().error("the store is away", reason=str(error))
        return cls(database, with_text=settings.store_text == "on")

    def save(self, rows: Sequence[Interaction]) -> None:
        """Write rows, in transactions of bounded size. A job's second row replaces its first.

        Not one of a later attempt: a worker that was thought dead may wake right here. Nor does
        it bring back what was deleted.

        Raises:
            StoreError: the database refused; write all of them again.
        """
        new = {row.id: row if self._with_text else without_text(row) for row in rows}
        for batch in batches(new.values()):
            with self._writing() as connection:
                self._settling.write(connection, batch)

    def page(self, wanted: Filter, *, before: int | None = None, limit: int = 20) -> Page:
        """The newest rows with a smaller number than `before`.

        A page ends early where its texts become long; what follows it, its `next` says.
        """
        with self._reading() as connection:
            return read_page(connection, self._database, wanted, before=before, limit=limit)

    def rows(self, wanted: Filter, *, limit: int | None = None) -> Iterator[Interaction]:
        """All of them, the newest first, page by page: nobody waits for whoever reads slowly."""
        before, left = None, limit
        while left is None or left > 0:
            page = self.page(wanted, before=before, limit=min(_PAGE, left or _PAGE))
            yield from page.rows
            if page.next is None:
                return
            before = page.next
            left = None if left is None else left - len(page.rows)

    def recent(self, limit: int) -> list[Interaction]:
        return list(self.rows(Filter(), limit=limit))

    def find(self, job_id: str, *, key: str | None = None) -> Interaction | None:
        """A job's row, if it is the key's."""
        with self._reading() as connection:
            return read_one(connection, job_id, key)

    def usage(
        self, wanted: UsageFilter, *, after: UsageKey | None = None, limit: int = 1000
    ) -> list[Usage]:
        with self._reading() as connection:
            return read_usage(connection, wanted, after=after, limit=limit)

    def all_usage(self, wanted: UsageFilter) -> Iterator[Usage]:
        after = None
        while page := self.usage(wanted, after=after):
            yield from page
            after = key_of(page[-1])

    def delete(self, wanted: Filter, *, ids: Sequence[str] | None = None) -> int:
        """Delete rows, some at a time and the oldest first; returns how many.

        What is written meanwhile may stay. A search is not looked at.

        Raises:
            StoreError: the database refused; those deleted by then stay so.
        """
        total = 0
        while found := self.delete_some(wanted, ids=ids):
            total += found
            if found < MAX_ROWS:
                break
        self.scrub()
        return total

    def delete_some(self, wanted: Filter, *, ids: Sequence[str] | None = None) -> int:
        """As `delete`, but no more than writers would want to wait for, and without `scrub`."""
        with self._writing() as connection:
            return self._settling.remove(connection, conditions(wanted, ids))

    def forget_deleted(self, before: datetime) -> None:
        """Of what was deleted before then, keep not even the ids."""
        with self._writing() as connection:
            forget_deleted(connection, before)

    def scrub(self) -> None:
        """Overwrite what was deleted, where that is ours to do."""
        with translated():
            self._database.scrub()

    def close(self) -> None:
        self._database.engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        self._database.make_ready()
        with translated(), self._database.reading() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        self._database.make_ready()
        with translated(), self._database.writing() as connection:
            yield connection
