"""Between RQ and the engine. The only module that knows RQ's worker.

RQ's own workers run one job at a time in a forked process. This one keeps many executions
open at once in its own process: `execute_job` hands a job to the engine loop and returns,
and each job is finalised when it ends. RQ 3.0 keeps its bookkeeping by execution, so its
registries, results and dashboards stay true.

Who owns a job is the ledger's business. RQ's books follow it and are never asked.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, worker_registration
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus

from shared.claim import Claim
from shared.logging import get_logger
from shared.queue import rq_queue
from worker.agenda import Agenda
from worker.books import EXECUTION_TTL

HEARTBEAT_TTL: Final = 10
"""Seconds after its last heartbeat that a worker counts as dead."""

_POLL_SECONDS: Final = 1
"""How long one wait for a job may take: the time until a stop request is seen."""

_MAX_BACKOFF: Final = 2.0


def generate() -> NoReturn:
    """What RQ is told to run; `GenerationWorker` never calls it."""
    raise RuntimeError("This job needs `minivault worker`; a stock RQ worker can't run it.")


class GenerationWorker(BaseWorker):
    """One process, one RQ worker, up to `slots` executions at a time."""

    def __init__(
        self,
        redis: Redis,
        *,
        name: str,
        models: Sequence[str],
        slots: int,
        agenda: Agenda,
        start: Callable[[Claim], None],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        """RQ knows the worker from before `on_start` until after `on_stop`.

        Between the two, jobs are taken and given to `start`, each with a slot that `release`
        gives back.
        """
        super().__init__(
            [rq_queue(redis, model) for model in models],
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=HEARTBEAT_TTL,
            log_job_description=False,
        )
        self._agenda = agenda
        self._start = start
        self._on_start = on_start
        self._on_stop = on_stop
        self._free = threading.Semaphore(slots)
        self._claim: Claim | None = None
        # What RQ's loop hands from `dequeue_job_and_maintain_ttl` to `execute_job`.
        self._some_job = Job("some", redis, JSONSerializer), self.queues[0]
        self._suspension_seen_at = -float(_POLL_SECONDS)
        self.stopping_since: float | None = None
        """When it was first asked to stop, on the monotonic clock."""

    def stop(self) -> None:
        """Take no more jobs; `work` returns soon. From any thread or signal handler."""
        self.stopping_since = self.stopping_since or time.monotonic()
        self._stop_requested = True

    @property
    def stop_requested(self) -> bool:
        return self._stop_requested

    def serve(self, models: Sequence[str]) -> None:
        """Tell RQ, and so dashboards, whose queues this worker looks after from now on."""
        self.queues = [rq_queue(self.connection, model) for model in models]
        self.connection.hset(self.key, "queues", ",".join(self.queue_names()))

    def release(self) -> None:
        """Give a slot back."""
        self._free.release()

    # What follows replaces parts of RQ's work loop.

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job, once there is a free slot for it; None when asked to stop."""
        del timeout, max_idle_time
        backoff = 0.1
        while not self._stop_requested:
            if not self._free.acquire(timeout=_POLL_SECONDS):
                continue
            claim = None
            try:
                claim = self._next_claim()
                backoff = 0.1
            except RedisError as error:
                # A claim whose reply was lost is found by this worker's own sweep.
                get_logger().warning("no jobs without Redis", reason=str(error))
                time.sleep(backoff)
                backoff = min(backoff * 2, _MAX_BACKOFF)
            finally:
                if claim is None:
                    self._free.release()
            if claim is not None:
                self._claim = claim
                return self._some_job
        return None

    def _next_claim(self) -> Claim | None:
        claim = self._agenda.take()
        if claim is None:
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
            claim = self._agenda.wait(_POLL_SECONDS)
        return claim

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Pass on what was taken. Holds a slot until `release`."""
        del job, queue
        assert self._claim is not None
        self._start(self._claim)

    def renew(self) -> None:
        """RQ's own heartbeat, and whether the worker is busy.

        A worker that stood still for long was struck off RQ's lists, and comes back on them.
        Not by `register_birth`, which refuses where another thread has just written a field.
        """
        with self.connection.pipeline() as pipe:
            if not self.connection.hexists(self.key, "birth"):
                pipe.hset(self.key, mapping=self.serialize())
            worker_registration.register(self, pipe)
            super().heartbeat(HEARTBEAT_TTL, pipe)
            if self.get_state() != WorkerStatus.SUSPENDED:
                self.set_state(WorkerStatus.IDLE, pipe)
            pipe.execute()

    def set_state(self, state: str, pipeline: object = None) -> None:
        """RQ goes idle after every job; this worker does when its last one has ended."""
        if state == WorkerStatus.IDLE and self.executions:
            state = WorkerStatus.BUSY
        super().set_state(state, pipeline)  # type: ignore[arg-type]  # RQ: a Pipeline or None

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        del job, working_time
        return EXECUTION_TTL

    def heartbeat(self, timeout: int | None = None, pipeline: object = None) -> None:
        """Only where it costs no round trip of its own: a thread sends one every two seconds."""
        del timeout
        if pipeline is not None:
            super().heartbeat(HEARTBEAT_TTL, pipeline)  # type: ignore[arg-type]  # as above

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001  (RQ's signature)
        """Not before every job of a burst: each waits for those before it."""
        if time.monotonic() < self._suspension_seen_at + _POLL_SECONDS:
            return
        self._suspension_seen_at = time.monotonic()
        with _without_redis("suspension"):
            super().check_for_suspension(burst)

    def run_maintenance_tasks(self) -> None:
        with _without_redis("maintenance"):
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]  # RQ

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        super().bootstrap(*args, **kwargs)
        self._on_start()

    def teardown(self) -> None:
        self._on_stop()
        with _without_redis("farewell"):
            super().teardown()  # type: ignore[no-untyped-call]  # RQ

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()


@contextmanager
def _without_redis(what: str) -> Iterator[None]:
    """RQ's loop quits where Redis does not answer; this worker's jobs go on."""
    try:
        yield
    except RedisError as error:
        get_logger().warning(f"no {what} without Redis", reason=str(error))
