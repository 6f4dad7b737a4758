"""A worker process put together: what starts in which order, and ends in which."""

from __future__ import annotations

import sys
import time
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared.claim import Claim
from shared.errors import DecodeError, JobNotFoundError
from shared.ledger import Ledger
from shared.log import EventLog, taken
from shared.logging import get_logger
from shared.settings import Settings
from shared.store import Store
from shared.tracing import Tracing
from worker.agenda import Agenda
from worker.attempts import Attempts
from worker.books import Books
from worker.clerk import Clerk
from worker.finisher import Finisher
from worker.heartbeat import Heartbeat
from worker.intake import GenerationWorker
from worker.loop import EngineLoop
from worker.metrics import WorkerMetrics
from worker.models import Loader
from worker.prompts import TokenizerLoader
from worker.publisher import Publisher
from worker.rescue import Rescue
from worker.retention import Retention
from worker.run import Outcome, Run, outcome_of
from worker.steward import Steward
from worker.stock import Stock
from worker.sweep import Sweep
from worker.traces import RunTraces

_POLL: Final = 0.05
_STUCK_SECONDS: Final = 120.0
"""Far longer than a step takes anywhere, and than an accused job takes to be written down."""
_CLOSING_SECONDS: Final = 2.0
"""Of the grace time, for the step under way, what is not yet in the logs, and handing back."""

_SWITCH_SECONDS: Final = 0.0005
"""For which a thread may keep the interpreter from the engine's: by default as long as a step."""
_OPENING_SECONDS: Final = 0.001
"""For which a job's first pass has the interpreter to itself: what it begins with is Python."""
_FAREWELL_SECONDS: Final = 1.0
"""For the clerk's last answer. A long text takes longer, and may be sent again."""


class WorkerService:
    """RQ's loop on the calling thread; the others of docs/architecture.md beside it."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        loader: Loader,
        tokenizers: TokenizerLoader,
        store: Store,
        *,
        name: str,
        stock: Stock,
    ) -> None:
        self._settings = settings
        self._crashed = False
        metrics = self.metrics = WorkerMetrics()
        self._tracing = Tracing("worker", name)
        traces = self._traces = RunTraces(self._tracing)
        log = self._log = EventLog(redis)
        ledger = self._ledger = Ledger(redis, name, settings.models)
        self._publisher = Publisher(
            log,
            metrics=metrics,
            traces=traces,
            on_end=self._on_end,
            on_fenced=self._on_lost,
            on_crash=self._on_crash,
        )
        self._loop = EngineLoop(
            loader=loader,
            publisher=self._publisher,
            metrics=metrics,
            room=stock,
            accuse=self._accuse,
            on_crash=self._on_crash,
        )
        self._worker = GenerationWorker(
            redis,
            name=name,
            models=settings.models,
            slots=settings.slots,
            agenda=Agenda(redis, ledger, self._loop, worker=name, patience=settings.model_patience),
            start=self._start,
            on_start=self._announce,
            on_stop=self._drain,
        )
        books = Books(redis, self._worker)
        self._attempts = Attempts(
            ledger, books, traces, on_begin=self._on_begin, release=self._worker.release
        )
        self._finisher = Finisher(
            store=store,
            log=log,
            ledger=ledger,
            metrics=metrics,
            traces=traces,
            result_ttl=settings.result_ttl,
            open_books=self._attempts.open_books,
            close_books=books.close,
            on_finished=self._attempts.forget,
            on_fenced=self._on_lost,
            on_crash=self._on_crash,
        )
        self._heartbeat = Heartbeat(
            redis,
            worker=self._worker,
            loop=self._loop,
            attempts=self._attempts,
            ledger=ledger,
            slots=settings.slots,
            places=stock.places,
            on_crash=self._on_crash,
        )
        self._steward = Steward(
            redis,
            worker=name,
            models=settings.models,
            ledger=ledger,
            loop=self._loop,
            stock=stock,
            on_served=self._worker.serve,
            tell=self._heartbeat.tell,
            on_crash=self._on_crash,
        )
        self._retention = Retention(
            settings, redis, store, metrics=metrics, on_crash=self._on_crash
        )
        self._clerk = Clerk(
            redis, models=lambda: ledger.models, loader=tokenizers, on_crash=self._on_crash
        )
        self._expose()
        self._sweep = Sweep(
            redis,
            worker=name,
            ledger=ledger,
            attempts=self._attempts,
            rescue=Rescue(
                redis,
                ledger=ledger,
                log=log,
                attempts=self._attempts,
                metrics=metrics,
                traces=traces,
                finish=self._on_end,
            ),
            loop=self._loop,
            on_lost=self._on_lost,
            on_crash=self._on_crash,
        )

    def _expose(self) -> None:
        gauge, slots = self.metrics.gauge, self._settings.slots
        gauge("slots", "Requests that can be generated at once.", lambda: slots)
        gauge("requests_running", "Requests in slots.", lambda: len(self._attempts))
        gauge("models_loaded", "Models in memory.", lambda: len(self._loop.loaded))
        gauge("model_swaps", "Models unloaded for another one.", lambda: self._loop.shelf.swaps)
        gauge("kv_cache_bytes", "Memory for KV caches.", lambda: self._loop.kv_bytes)
        gauge("kv_cache_usage", "Share of slots' that is used.", lambda: self._loop.kv_usage)
        gauge("prefix_cache_bytes", "What prefix caches hold.", lambda: self._loop.prefix_bytes)

    def run(self) -> bool:
        """Serve until `stop` or a signal; True if it ended as asked.

        Raises:
            ModelUnavailableError: the default model can't be loaded.
        """
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._tracing.start()
        self._loop.preload(self._settings.default_model)
        for thread in (self._publisher, self._finisher, self._loop, self._clerk):
            thread.start()
        self._worker.work(logging_level=None)
        self._tracing.close()
        return self._worker.stop_requested and not self._crashed

    def stop(self) -> None:
        self._worker.stop()

    def ailment(self) -> str:
        """What only a new process would mend; empty: nothing."""
        seconds = self._loop.stuck_seconds
        return f"no step for {seconds:.0f} s" if seconds > _STUCK_SECONDS else ""

    def hindrance(self) -> str:
        """Why no job would be taken now; empty: one would."""
        if self._worker.stop_requested:
            return "stopping"
        if not self._heartbeat.heard:
            return "starting, or Redis does not answer"
        return self.ailment()

    def _announce(self) -> None:
        self._heartbeat.beat()
        self._heartbeat.start()
        self._sweep.start()
        self._retention.start()
        self._steward.start()
        get_logger().info("worker ready", worker=self._worker.name)

    def _start(self, claim: Claim) -> None:
        """Begin a job that was taken, in the slot that it was taken for."""
        try:
            run = Run.from_log(claim._replace(entries=()), *taken(claim))
        except (DecodeError, JobNotFoundError) as error:
            # Left to the sweep, which finds a claim of ours for which there is no run.
            get_logger().warning("job not begun", job_id=claim.job_id, reason=str(error))
            self._worker.release()
            return
        self._attempts.begin(run, in_slot=True)
        if run.ended is not None:
            self._on_end(run, outcome_of(run.ended))
        else:
            attempt, tokens = run.starts + 1, len(run.ids)
            self.metrics.taken(run)
            self._traces.taken(run)
            self._loop.submit(run)
            time.sleep(_OPENING_SECONDS)
            run.logger.info("job taken", attempt=attempt, tokens=tokens)

    def _drain(self) -> None:
        """Let running jobs finish within the grace time, then hand back the rest.

        Each thread is closed before the one it feeds, so that everything generated is in
        the logs before a job goes back to its queue.
        """
        # Since then, not since RQ's loop has noticed: whoever asked counts from there.
        since = self._worker.stopping_since or time.monotonic()
        grace = self._settings.shutdown_grace
        deadline = since + grace - min(_CLOSING_SECONDS, grace / 3)
        while len(self._attempts) and not self._crashed and time.monotonic() < deadline:
            time.sleep(_POLL)
        self._clerk.stop()
        self._sweep.stop()
        self._retention.stop()
        self._steward.stop()
        unfinished = self._loop.stop()
        self._publisher.close()
        self._finisher.close()
        self._attempts.hand_back(run for run in unfinished if not run.fenced)
        self._heartbeat.stop()
        self._clerk.join(_FAREWELL_SECONDS)

    def _accuse(self, run: Run) -> None:
        try:
            self._ledger.accuse(run.claim, len(run.ids))
        except RedisError as error:  # then a death does not count, and the next one does
            run.logger.warning("suspect not noted", reason=str(error))

    def _on_begin(self, run: Run) -> None:
        self._finisher.begin(run)

    def _on_end(self, run: Run, outcome: Outcome) -> None:
        self._finisher.finish(run, outcome)

    def _on_lost(self, run: Run) -> None:
        run.fenced = True
        self._loop.drop(run)
        self._attempts.lost(run)

    def _on_crash(self) -> None:
        self._crashed = True
        self._worker.stop()
