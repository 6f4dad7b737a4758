"""Writes what the engines produce to the event logs, in order, off the engines' thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from shared.events import AnyEvent, Event
from shared.log import Append, EventLog
from worker.engine.base import Output
from worker.metrics import WorkerMetrics
from worker.numbered import Numbered
from worker.patience import Patience
from worker.run import Outcome, Run
from worker.thread import SideThread
from worker.traces import RunTraces


class Step(NamedTuple):
    """One that an engine has made."""

    model: str
    seconds: float
    ended_at: float
    """Seconds since the epoch."""


class _Sent(NamedTuple):
    drafts: list[tuple[Run, Event | Output | Outcome]]
    """Events that have no numbers yet, what a step added to a run, and ends of runs."""
    step: Step | None
    """That they come from."""


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
        self._collected: list[tuple[Run, Event | Output | Outcome]] = []
        """By the engines' thread, which alone calls what comes before `settle`."""
        self._drafts: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        self._sent = self._written = 0
        """How often something was, by the engines' thread and by this one."""
        self._wrote = threading.Condition()
        self._patience = Patience("events")

    def publish(self, run: Run, events: Iterable[Event]) -> None:
        """With the next `send`."""
        self._collected += [(run, event) for event in events]

    def pass_on(self, run: Run, output: Output) -> None:
        """What the step that the next `send` names has added to a run.

        What there is to do about it is done by this thread, while the engine's next step is under
        way: between two steps all cores wait.
        """
        self._collected.append((run, output))

    def end(self, run: Run, outcome: Outcome) -> None:
        """Nothing more comes from this run. With the next `send`."""
        self._collected.append((run, outcome))

    def send(self, step: Step | None = None) -> None:
        """Have what was collected go out. Once a step: else its first draft would go alone."""
        if self._collected or step is not None:
            sent = _Sent(self._collected, step)
            self._collected = []
            self._sent += 1
            self._drafts.put(sent)

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
            batch = [first]
            closed = False
            while not (closed or self._drafts.empty()):
                sent = self._drafts.get()
                if sent is None:
                    closed = True
                else:
                    batch.append(sent)
            self._write(batch)
            with self._wrote:
                self._written += len(batch)
                self._wrote.notify()
            if closed:
                return

    def _write(self, batch: Sequence[_Sent]) -> None:
        numbered = Numbered()
        for drafts, _ in batch:
            for run, draft in drafts:
                if not isinstance(draft, Outcome):
                    numbered.add(run, draft)
        self._append(numbered.events)
        for drafts, step in batch:
            for run, draft in drafts:
                if not run.fenced:
                    self._tell(run, draft, step)
            if step is not None:
                tokens = sum(len(draft.ids) for _, draft in drafts if isinstance(draft, Output))
                self._metrics.stepped(step.model, step.seconds, tokens)

    def _append(self, events: Sequence[tuple[Run, AnyEvent]]) -> None:
        appends = [Append(run.id, run.key, event) for run, event in events]
        # Sending the same events again is harmless.
        replies = self._patience.insist(lambda: self._log.append_all(appends))
        for (run, event), accepted in zip(events, replies, strict=True):
            if accepted:
                run.note(event)
            elif not run.fenced:
                run.fenced = True
                self._metrics.fenced()
                self._on_fenced(run)

    def _tell(self, run: Run, draft: Event | Output | Outcome, step: Step | None) -> None:
        """Count what is in the log now, and pass on a run that has ended."""
        if isinstance(draft, Output):
            assert step is not None, "outputs come from steps"
            if draft.cached_tokens:
                run.cached_tokens = draft.cached_tokens
                self._metrics.recalled(run)
            if draft.ids:
                since = run.last_token_at
                run.tick(step.ended_at)
                self._metrics.generated(run, since)
                self._traces.published(run)
            if draft.finish_reason is not None:
                self._on_end(run, Outcome(draft.finish_reason, draft.error))
        elif isinstance(draft, Outcome):
            self._on_end(run, draft)
