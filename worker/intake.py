"""Between RQ and the engine. The only module that knows RQ's worker.

RQ's own workers run one job at a time in a forked process. This one keeps many executions
open at once in its own process: `execute_job` hands a job to the engine loop and returns,
and each job is finalised when it ends. RQ 3.0 keeps its bookkeeping by execution, so its
registries, results and dashboards stay true.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NoReturn

from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus

from shared.errors import DecodeError, JobNotFoundError
from shared.log import EventLog
from shared.logging import get_logger
from shared.queue import rq_queue
from shared.redis import CONNECTION_ERRORS
from worker.loop import EngineLoop
from worker.run import Outcome, Run

HEARTBEAT_TTL: Final = 10
"""Seconds after its last heartbeat that a worker, or a job's execution, counts as dead."""

_POLL_SECONDS: Final = 1
"""How long one blocking pop may take: the time until a stop request is seen."""

_MAX_BACKOFF: Final = 10.0


def generate() -> NoReturn:
    """What RQ is told to run; `GenerationWorker` never calls it."""
    raise RuntimeError("This job needs `minivault worker`; a stock RQ worker can't run it.")


@dataclass(frozen=True)
class _Ticket:
    """RQ's side of a run."""

    job: Job
    queue: Queue
    execution: Execution


class GenerationWorker(BaseWorker):
    """One process, one RQ worker, up to `slots` executions at a time."""

    def __init__(
        self,
        redis: Redis,
        *,
        name: str,
        models: Sequence[str],
        slots: int,
        loop: EngineLoop,
        log: EventLog,
        finish: Callable[[Run, Outcome], None],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        """RQ knows the worker from before `on_start` until after `on_stop`.

        Between the two, jobs are taken.
        """
        super().__init__(
            [rq_queue(redis, model) for model in models],
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=HEARTBEAT_TTL,
            log_job_description=False,
        )
        self._loop = loop
        self._log = log
        self._finish = finish
        self._on_start = on_start
        self._on_stop = on_stop
        self._free = threading.Semaphore(slots)
        self._tickets: dict[str, _Ticket] = {}

    @property
    def running(self) -> int:
        return len(self._tickets)

    def stop(self) -> None:
        """Take no more jobs; `work` returns soon. From any thread or signal handler."""
        self._stop_requested = True

    @property
    def stop_requested(self) -> bool:
        return self._stop_requested

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Hand a dequeued job to the engine loop. Holds a slot that `finalize` gives back."""
        execution = self.prepare_execution(job)
        self.prepare_job_execution(job, remove_from_intermediate_queue=len(self.queues) == 1)
        ticket = _Ticket(job, queue, execution)
        try:
            run = Run.from_log(*self._log.read_job(job.id))
        except (DecodeError, JobNotFoundError):
            self._finalize_failure(job, queue, execution, sys.exc_info())
            self._free.release()
            return
        self._tickets[run.id] = ticket
        if run.ended is not None:
            self._finish(run, run.earlier_outcome())  # only RQ was left to be told
        else:
            self._loop.submit(run)

    def finalize(self, run: Run, outcome: Outcome) -> None:
        """Tell RQ how a run ended. Called on the finisher's thread."""
        ticket = self._tickets.pop(run.id)
        if outcome.error is None:
            result = {"finish_reason": str(outcome.finish_reason), "tokens": len(run.ids)}
            self._finalize_success(ticket.job, ticket.queue, ticket.execution, result)
        else:
            error = outcome.error
            self._finalize_failure(
                ticket.job, ticket.queue, ticket.execution, (type(error), error, None)
            )
        self._release()

    def abandon(self, run: Run) -> None:
        """Another worker owns the job now: forget our execution, leave the job alone."""
        ticket = self._tickets.pop(run.id)
        get_logger().warning("job was taken over", job=run.id)
        with self.connection.pipeline() as pipe:
            self.cleanup_execution(ticket.job, pipe, ticket.execution)
            pipe.execute()
        self._release()

    def hand_back(self, runs: Sequence[Run]) -> None:
        """Put unfinished runs back at the front of their queues, for another worker."""
        for run in runs:
            ticket = self._tickets.pop(run.id)
            with self.connection.pipeline() as pipe:
                pipe.multi()
                self.cleanup_execution(ticket.job, pipe, ticket.execution)
                ticket.queue.enqueue_job(ticket.job, pipeline=pipe, at_front=True)
                pipe.execute()
            get_logger().info("job handed back", job=run.id, tokens=len(run.ids))
            self._release()

    def renew(self) -> None:
        """One heartbeat for the worker and every job it runs."""
        with self.connection.pipeline() as pipe:
            self.heartbeat(pipeline=pipe)
            if self.get_state() != WorkerStatus.SUSPENDED:
                self.set_state(WorkerStatus.IDLE, pipe)
            for ticket in list(self._tickets.values()):
                registry = ticket.job.started_job_registry
                ticket.execution.heartbeat(registry, HEARTBEAT_TTL, pipeline=pipe)
            pipe.execute()

    def _release(self) -> None:
        self.set_state(WorkerStatus.IDLE)
        self._free.release()

    # What follows replaces parts of RQ's work loop.

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job, once there is a free slot for it; None when asked to stop."""
        del timeout, max_idle_time
        backoff = 1.0
        while not self._stop_requested:
            if not self._free.acquire(timeout=_POLL_SECONDS):
                continue
            result = None
            try:
                result = self._pop()
                backoff = 1.0
            except CONNECTION_ERRORS as error:
                get_logger().warning("no jobs without Redis", reason=str(error))
                time.sleep(backoff)
                backoff = min(backoff * 2, _MAX_BACKOFF)
            finally:
                if result is None:
                    self._free.release()
            if result is not None:
                return result
        return None

    def _pop(self) -> tuple[Job, Queue] | None:
        try:
            return self.queue_class.dequeue_any(
                self._ordered_queues,
                _POLL_SECONDS,
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except DequeueTimeout:
            return None

    def set_state(self, state: str, pipeline: object = None) -> None:
        """RQ goes idle after every job; this worker does when its last one has ended."""
        if state == WorkerStatus.IDLE and self.executions:
            state = WorkerStatus.BUSY
        super().set_state(state, pipeline)  # type: ignore[arg-type]  # RQ: a Pipeline or None

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        del job, working_time
        return HEARTBEAT_TTL

    def heartbeat(self, timeout: int | None = None, pipeline: object = None) -> None:
        """Only where it costs no round trip of its own: a thread sends one every two seconds."""
        del timeout
        if pipeline is not None:
            super().heartbeat(HEARTBEAT_TTL, pipeline)  # type: ignore[arg-type]  # as above

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        super().bootstrap(*args, **kwargs)
        self._on_start()

    def teardown(self) -> None:
        self._on_stop()
        super().teardown()  # type: ignore[no-untyped-call]  # RQ

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()
