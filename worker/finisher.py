"""Ends jobs: the row, the terminal event, RQ's bookkeeping with the claim, in this order.

RQ's books are opened here as well, when there is a lull: that is for dashboards, and is not to take
from what a first token waits for. Those of a job that ends before are opened as they are closed.

A crash between two of these is repaired by running the rest again: the row is an upsert, the
event is accepted once, and RQ's books are closed in the transaction that lets go of the claim.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

from redis.client import Pipeline
from redis.exceptions import RedisError

from shared.ending import Ending
from shared.errors import DecodeError, JobNotFoundError, StoreError
from shared.events import Cancelled, Done, Failed
from shared.job import now
from shared.ledger import Ledger
from shared.log import Append, EventLog
from shared.logging import get_logger
from shared.queue import FAILURE_TTL
from shared.store import Store
from worker.metrics import WorkerMetrics
from worker.patience import Patience
from worker.row import row_of
from worker.run import Outcome, Run
from worker.thread import SideThread
from worker.traces import RunTraces

_STORE_PAUSE: Final = 5.0
"""Seconds for which a store that has failed is left alone: streams must not wait for it."""
_LATER_SECONDS: Final = 0.05
"""Without anything new, after which the books of what has begun are opened."""
_MANY: Final = 8
"""Runs for which there has to be no lull."""

End: TypeAlias = tuple[Run, Outcome]
Terminal: TypeAlias = Done | Failed | Cancelled
_Task: TypeAlias = tuple[Run, Outcome | None]
"""A run and its outcome; None: it has begun."""


class Finisher(SideThread):
    """A thread of its own, so that a slow disk delays no running stream."""

    def __init__(
        self,
        *,
        store: Store,
        log: EventLog,
        ledger: Ledger,
        metrics: WorkerMetrics,
        traces: RunTraces,
        result_ttl: int,
        open_books: Callable[[Sequence[Run]], None],
        close_books: Callable[[Sequence[End], Pipeline], None],
        on_finished: Callable[[Run], None],
        on_fenced: Callable[[Run], None],
        on_crash: Callable[[], None],
    ) -> None:
        """`open_books` and `close_books` tell RQ; `result_ttl` in seconds."""
        super().__init__("finisher", on_crash)
        self._store = store
        self._log = log
        self._ledger = ledger
        self._metrics = metrics
        self._traces = traces
        self._result_ttl = result_ttl
        self._open_books = open_books
        self._close_books = close_books
        self._on_finished = on_finished
        self._on_fenced = on_fenced
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._patience = Patience("ends of jobs")
        self._store_failed_at = -_STORE_PAUSE

    def begin(self, run: Run) -> None:
        self._tasks.put((run, None))

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Behind `begin`."""
        self._tasks.put((run, outcome))

    def close(self) -> None:
        """Finish what is waiting, then stop."""
        self._patience.end()
        self._tasks.put(None)
        self.join()

    def run(self) -> None:
        begun: list[Run] = []
        closed = False
        while not closed:
            tasks = self._gather(_LATER_SECONDS if begun else None)
            closed = None in tasks
            begun += [task[0] for task in tasks if task and task[1] is None]
            ends = [(run, outcome) for run, outcome in filter(None, tasks) if outcome is not None]
            if begun and (closed or not tasks or len(begun) > _MANY):
                self._patience.insist(partial(self._open_books, begun))
                begun = []
            if ends:
                self._finish(ends)

    def _gather(self, timeout: float | None) -> list[_Task | None]:
        """What there is to do, once there is something; nothing where that takes too long."""
        try:
            tasks = [self._tasks.get(timeout=timeout)]
        except queue.Empty:
            return []
        while tasks[-1] is not None and not self._tasks.empty():
            tasks.append(self._tasks.get())
        return tasks

    def _finish(self, batch: Sequence[End]) -> None:
        ends = [(run, outcome, run.ending(outcome)) for run, outcome in batch]
        saved = self._save([(run, end) for run, _, end in ends])
        fresh = [(run, end) for run, _, end in ends if run.ended is None]
        appends = [Append(run.id, run.key, end) for run, end in fresh]
        replies = self._patience.insist(lambda: self._log.append_all(appends))
        for (run, end), accepted in zip(fresh, replies, strict=True):
            if accepted:
                run.note(end)
                self._metrics.ended(run, end)
                self._traces.ended(run, end)
            else:
                run.fenced = True
                self._metrics.fenced()
        if saved:
            self._correct([run for run, _ in fresh if run.fenced])
        ours = [(run, outcome, end) for run, outcome, end in ends if not run.fenced]
        if ours:
            self._let_go(ours, saved=saved)
        for run, outcome, _ in ends:
            if run.fenced:
                self._on_fenced(run)
                continue
            self._on_finished(run)
            run.logger.info(
                "job ended",
                reason=str(outcome.finish_reason),
                tokens=len(run.ids),
                attempt=run.starts,
            )

    def _let_go(self, ours: Sequence[tuple[Run, Outcome, Terminal]], *, saved: bool) -> None:
        endings = [
            Ending(
                run.claim,
                run.request,
                saved=saved,
                # A failed job can be put back for as long as RQ shows it.
                log_ttl=FAILURE_TTL if isinstance(end, Failed) else self._result_ttl,
                used=end.usage.total_tokens,
                # Not of one whose row or end was all that was missing: it says nothing of the pace.
                seconds=run.seconds if isinstance(end, Done) and run.first_token_at else None,
            )
            for run, _, end in ours
        ]
        close = partial(self._close_books, [(run, outcome) for run, outcome, _ in ours])
        verdicts = self._patience.insist(lambda: self._ledger.finish(endings, along=close))
        for (run, _, _), is_ours in zip(ours, verdicts, strict=True):
            run.fenced = not is_ours

    def _save(self, ends: Sequence[tuple[Run, Terminal]]) -> bool:
        """Write the rows. A store that refuses delays nobody: a sweep comes back to them."""
        if time.monotonic() < self._store_failed_at + _STORE_PAUSE:
            return False
        runs, began = [run for run, _ in ends], now()
        try:
            self._store.save([row_of(run, end) for run, end in ends])
        except StoreError as error:
            self._traces.saved(runs, began, error=error.code)
            self._store_failed_at = time.monotonic()
            self._metrics.store_failed()
            get_logger().error("rows wait for the store", rows=len(ends), reason=str(error))
            return False
        self._traces.saved(runs, began)
        return True

    def _correct(self, fenced: Sequence[Run]) -> None:
        """Rows of ours that are not what the log says: somebody else had ended the job.

        Where it was begun anew for that, the store has refused ours.
        """
        ends = []
        for stale in fenced:
            with suppress(JobNotFoundError, DecodeError, RedisError):
                run = Run.from_log(stale.claim, *self._log.read_job(stale.id))
                if run.ended is not None:
                    ends.append((run, run.ended))
        if ends:
            self._save(ends)
