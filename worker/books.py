"""RQ's books: what its dashboards show of the jobs that this worker runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.client import Pipeline
from rq.exceptions import NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus

from shared.queue import rq_queue
from worker.run import Outcome, Run

EXECUTION_TTL: Final = 24 * 3600
"""Seconds that RQ takes an execution to live without a word. Long: whether a worker is dead is
for the sweep to say. RQ would call the job abandoned and failed."""
_OVER: Final = (JobStatus.FINISHED, JobStatus.FAILED)


@dataclass(frozen=True)
class _Ticket:
    """RQ's side of a run."""

    job: Job
    execution: Execution


class Books:
    """Opened when a run begins, closed when it ends. Closing twice does no harm."""

    def __init__(self, redis: Redis, worker: BaseWorker) -> None:
        self._redis = redis
        self._worker = worker
        self._tickets: dict[str, _Ticket] = {}

    def open(self, runs: Sequence[Run]) -> None:
        """Write jobs down as started."""
        with self._redis.pipeline() as pipe:
            tickets = self._open(runs, pipe)
            if not tickets:
                return
            self._worker.set_state(WorkerStatus.BUSY, pipe)
            self._worker.heartbeat(pipeline=pipe)
            pipe.execute()
        self._worker.executions |= {each.execution.id: each.execution for each in tickets.values()}
        self._tickets |= tickets

    def close(self, ends: Collection[tuple[Run, Outcome]], pipe: Pipeline) -> None:
        """Have `pipe` write down how jobs have ended. `forget` them when that is done.

        What was not opened before is opened with it.
        """
        late = [run for run, _ in ends if run.key not in self._tickets]
        tickets = self._tickets | self._open(late, pipe)
        for run, outcome in ends:
            if ticket := tickets.get(run.key):
                self._close(run, outcome, ticket, pipe)

    def forget(self, run: Run) -> None:
        self._tickets.pop(run.key, None)

    def _open(self, runs: Sequence[Run], pipe: Pipeline) -> dict[str, _Ticket]:
        """As RQ's `prepare_execution` and what follows it do.

        Not for one that was deleted from RQ by hand, nor for one whose books are closed.
        """
        ids, tickets = [run.id for run in runs], dict[str, _Ticket]()
        if not ids:
            return tickets
        jobs = Job.fetch_many(ids, connection=self._redis, serializer=JSONSerializer)
        for run, job in zip(runs, jobs, strict=True):
            if job is None or job.get_status(refresh=False) in _OVER:
                continue
            execution = Execution.create(job, EXECUTION_TTL, pipe, self._worker.name)
            job.prepare_for_execution(self._worker.name, pipe)
            pipe.persist(job.key)
            tickets[run.key] = _Ticket(job, execution)
        return tickets

    def _close(self, run: Run, outcome: Outcome, ticket: _Ticket, pipe: Pipeline) -> None:
        job, execution = ticket.job, ticket.execution
        job.ended_at = now()
        by: dict[str, Any] = {
            "worker_name": self._worker.name,
            "execution_id": execution.id,
            "execution_started_at": execution.created_at,
            "execution_ended_at": job.ended_at,
        }
        if outcome.error is None:
            result = {"finish_reason": str(outcome.finish_reason), "tokens": len(run.ids)}
            # RQ's own `_finalize_success` does this and three round trips more.
            job._result = result  # noqa: SLF001
            job._handle_success(  # noqa: SLF001
                job.result_ttl, pipeline=pipe, **by
            )
            job.cleanup(job.result_ttl, pipeline=pipe, remove_from_queue=False)
            self._worker.increment_successful_job_count(pipe)
        else:
            job.set_status(JobStatus.FAILED, pipeline=pipe)
            job._handle_failure(  # noqa: SLF001
                outcome.error.detail, pipeline=pipe, **by
            )
            self._worker.increment_failed_job_count(pipe)
        assert job.started_at is not None
        self._worker.increment_total_working_time(job.ended_at - job.started_at, pipe)
        self._worker.cleanup_execution(job, pipe, execution)

    def discard(self, run: Run) -> None:
        """Strike off a run that does not end here."""
        ticket = self._tickets.pop(run.key, None)
        if ticket is not None:
            with self._redis.pipeline() as pipe:
                self._worker.cleanup_execution(ticket.job, pipe, ticket.execution)
                pipe.execute()


def discard_leftovers(redis: Redis, job_id: str, model: str) -> None:
    """Forget what workers have written down about a job that they lost."""
    started = rq_queue(redis, model).started_job_registry
    registry = ExecutionRegistry(job_id, redis)
    with redis.pipeline() as pipe:
        for execution_id in registry.get_execution_ids():
            execution = Execution(execution_id, job_id, redis)
            worker: bytes | None = redis.hget(execution.key, "worker_name")  # type: ignore[assignment]
            execution.worker_name = worker.decode() if worker else ""
            started.remove_execution(execution, pipeline=pipe)
            pipe.srem(execution.worker_executions_key, execution.composite_key)
            pipe.delete(execution.key)
        pipe.delete(registry.key)
        pipe.execute()


def write_off(redis: Redis, job_id: str, reason: str) -> None:
    """Write down as failed what can't be run and has no log to say so."""
    try:
        job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return
    with redis.pipeline() as pipe:
        record_job_failure(job, reason, pipe)
        pipe.execute()
