"""Writes what the engines produce to the event logs, in order, off the engines' thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import msgspec

from shared.events import AnyEvent, Event, Token
from shared.log import Append, EventLog
from worker.metrics import WorkerMetrics
from worker.patience import Patience
from worker.run import Outcome, Run
from worker.thread import SideThread
from worker.traces import RunTraces


class _Draft(NamedTuple):
    """An event that has no number yet, or the end of a run."""

    run: Run
    event: Event | None = None
    outcome: Outcome | None = None


class Publisher(SideThread):
    """Takes drafts, gives them numbers and appends them, all jobs in one round trip.

    What piled up while the last round trip was under way goes out together, and tokens of
    one job that wait side by side share an event. When a run's last event is in its log,
    the run goes on to `on_end`.

    Without Redis the drafts wait here while generation goes on. There are never more than the
    running jobs may still generate: slots x `max_tokens` tokens.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        metrics: WorkerMetrics,
        traces: RunTraces,
        on_end: Callable[[Run, Outcome], None],
        on_fenced: Callable[[Run], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("publisher", on_crash)
        self._log = log
        self._metrics = metrics
        self._traces = traces
        self._on_end = on_end
        self._on_fenced = on_fenced
        self._collected: list[_Draft] = []
        """By the engines' thread, which alone calls `publish`, `end` and `send`."""
        self._drafts: queue.SimpleQueue[list[_Draft] | None] = queue.SimpleQueue()
        self._sent = self._written = 0
        """Lists of drafts, by the engines' thread and by this one."""
        self._wrote = threading.Condition()
        self._patience = Patience("events")

    def publish(self, run: Run, events: Iterable[Event]) -> None:
        """With the next `send`."""
        self._collected += [_Draft(run, event=event) for event in events]

    def end(self, run: Run, outcome: Outcome) -> None:
        """Nothing more comes from this run. With the next `send`."""
        self._collected.append(_Draft(run, outcome=outcome))

    def send(self) -> None:
        """Have what was collected go out. Once a step: else its first draft would go alone."""
        if self._collected:
            collected, self._collected = self._collected, []
            self._sent += 1
            self._drafts.put(collected)

    def settle(self, seconds: float) -> None:
        """Wait until what was sent is in the logs, but no longer than this."""
        with self._wrote:
            self._wrote.wait_for(lambda: self._written == self._sent, seconds)

    def close(self) -> None:
        """Publish what is waiting, then stop. Once the engines' thread has ended."""
        self.send()
        self._patience.end()
        self._drafts.put(None)
        self.join()

    def run(self) -> None:
        while (first := self._drafts.get()) is not None:
            batch, lists = first, 1
            closed = False
            while not self._drafts.empty():
                drafts = self._drafts.get()
                if drafts is None:
                    closed = True
                    break
                batch += drafts
                lists += 1
            self._write(batch)
            with self._wrote:
                self._written += lists
                self._wrote.notify()
            if closed:
                return

    def _write(self, batch: list[_Draft]) -> None:
        drafts = _merge(draft for draft in batch if draft.event is not None)
        numbered: list[tuple[Run, AnyEvent]] = []
        next_seq: dict[Run, int] = {}
        for run, event in drafts:
            if run.fenced:
                continue
            seq = next_seq.get(run, run.last_seq) + 1
            next_seq[run] = seq
            numbered.append((run, cast("AnyEvent", msgspec.structs.replace(event, seq=seq))))
        appends = [Append(run.id, run.key, event) for run, event in numbered]
        # Sending the same events again is harmless.
        replies = self._patience.insist(lambda: self._log.append_all(appends))
        for (run, event), accepted in zip(numbered, replies, strict=True):
            if accepted:
                run.note(event)
                self._traces.published(run)
            elif not run.fenced:
                run.fenced = True
                self._metrics.fenced()
                self._on_fenced(run)
        for draft in batch:
            if draft.outcome is not None and not draft.run.fenced:
                self._on_end(draft.run, draft.outcome)


def _merge(drafts: Iterable[_Draft]) -> list[tuple[Run, Event]]:
    """Put neighbouring tokens of a run into one event; the order within a run stays.

    Text without ids before them, an echoed prompt, stays an event of its own.
    """
    merged: dict[Run, list[tuple[Run, Event]]] = {}
    for draft in drafts:
        assert draft.event is not None
        events = merged.setdefault(draft.run, [])
        last = events[-1][1] if events else None
        if isinstance(last, Token) and last.ids and isinstance(draft.event, Token):
            events[-1] = (draft.run, _joined(last, draft.event))
        else:
            events.append((draft.run, draft.event))
    return [pair for events in merged.values() for pair in events]


def _joined(first: Token, second: Token) -> Token:
    return Token(
        seq=0,
        ids=first.ids + second.ids,
        text=first.text + second.text,
        logprobs=first.logprobs + second.logprobs,
    )
