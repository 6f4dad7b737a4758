"""The runs that this worker has under way, and how each of them leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from shared.ledger import Ledger
from worker.books import Books
from worker.run import Run
from worker.traces import RunTraces


class Attempts:
    """Every way out is taken once; coming a second time changes nothing."""

    def __init__(
        self,
        ledger: Ledger,
        books: Books,
        traces: RunTraces,
        *,
        on_begin: Callable[[Run], None],
        release: Callable[[], None],
    ) -> None:
        """`on_begin` has `open_books` called soon; `release` gives back the slot of a run."""
        self._ledger = ledger
        self._books = books
        self._traces = traces
        self._on_begin = on_begin
        self._release = release
        self._booking = threading.Lock()
        """Held while books are opened, or a run leaves that does not end here."""
        self._runs: dict[str, Run] = {}
        self._in_slots: set[str] = set()

    def __len__(self) -> int:
        return len(self._in_slots)

    def all(self) -> list[Run]:
        return list(self._runs.values())

    def begin(self, run: Run, *, in_slot: bool) -> None:
        """Keep it. Its books are opened beside: what dashboards show delays no token."""
        self._runs[run.key] = run
        if in_slot:
            self._in_slots.add(run.key)
        self._on_begin(run)

    def open_books(self, runs: Iterable[Run]) -> None:
        """Write them down as started, but for those that have left by now.

        Raises:
            RedisError: none is written down; to be called again.
        """
        with self._booking:
            self._books.open([run for run in runs if run.key in self._runs])

    def lost(self, run: Run) -> None:
        """Somebody else owns the job now."""
        if run.key not in self._runs:
            return
        run.logger.warning("job was taken over")
        self._traces.left(run, "taken_over")
        with self._booking:
            try:
                self._books.discard(run)
            except RedisError as error:  # whoever took the job has struck our books already
                run.logger.warning("books left open", reason=str(error))
            self.forget(run)

    def hand_back(self, runs: Iterable[Run]) -> None:
        """Put unfinished runs back at the front of their queues, for another worker."""
        for run in runs:
            try:
                self._books.discard(run)
                if self._ledger.put_back(run.claim, run.request.created_at):
                    run.logger.info("job handed back", tokens=len(run.ids))
                    self._traces.left(run, "handed_back")
            except RedisError as error:  # another worker's sweep will find it
                run.logger.warning("job left behind", reason=str(error))
            self.forget(run)

    def forget(self, run: Run) -> None:
        """Let go of it, of its books and of its slot."""
        self._books.forget(run)
        if self._runs.pop(run.key, None) is not None and run.key in self._in_slots:
            self._in_slots.remove(run.key)
            self._release()
