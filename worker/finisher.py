"""Ends jobs: the row, then the terminal event, then RQ's bookkeeping, in this order.

A crash between two of these is repaired by running the rest again: the row is an upsert,
the event is accepted once, and RQ is told last.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TypeAlias

from shared.errors import StoreError
from shared.log import EventLog
from shared.logging import get_logger
from shared.store import Interaction, Store
from worker.run import Outcome, Run
from worker.thread import SideThread

End: TypeAlias = tuple[Run, Outcome]


class Finisher(SideThread):
    """A thread of its own, so that a slow disk delays no running stream."""

    def __init__(
        self,
        *,
        store: Store,
        log: EventLog,
        result_ttl: int,
        finalize: Callable[[Run, Outcome], None],
        on_crash: Callable[[], None],
    ) -> None:
        """`finalize` tells RQ; `result_ttl` in seconds."""
        super().__init__("finisher", on_crash)
        self._store = store
        self._log = log
        self._result_ttl = result_ttl
        self._finalize = finalize
        self._ends: queue.SimpleQueue[End | None] = queue.SimpleQueue()
        self._unsaved: list[Interaction] = []

    def finish(self, run: Run, outcome: Outcome) -> None:
        self._ends.put((run, outcome))

    def close(self) -> None:
        """Finish what is waiting, then stop."""
        self._ends.put(None)
        self.join()

    def run(self) -> None:
        closed = False
        while not closed:
            batch: list[End] = []
            end = self._ends.get()
            while end is not None:
                batch.append(end)
                if self._ends.empty():
                    break
                end = self._ends.get()
            closed = end is None
            if batch:
                self._finish(batch)
        self._save([])

    def _finish(self, batch: list[End]) -> None:
        for run, _ in batch:
            run.finish()
        fresh = [(run, outcome) for run, outcome in batch if not run.ended]
        self._save([run.row(outcome) for run, outcome in fresh])
        self._log.append_all([(run.id, run.ending(outcome)) for run, outcome in fresh])
        for run, outcome in batch:
            self._log.expire(run.id, self._result_ttl)
            self._finalize(run, outcome)
            get_logger().info(
                "job ended",
                job=run.id,
                request=run.request.request_id,
                reason=str(outcome.finish_reason),
                tokens=len(run.ids),
                attempt=run.attempt,
            )

    def _save(self, rows: list[Interaction]) -> None:
        """Write the rows, and those that a failing database has refused before."""
        self._unsaved += rows
        if not self._unsaved:
            return
        try:
            self._store.save(self._unsaved)
        except StoreError as error:
            get_logger().error(
                "rows wait for the store", rows=len(self._unsaved), reason=str(error)
            )
        else:
            self._unsaved = []
