"""RQ's books: what its dashboards show of the jobs that this worker runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
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

    def open(self, run: Run) -> None:
        """Write the job down as started, as RQ's `prepare_execution` and what follows it do.

        Not if it was deleted from RQ by hand, nor if its books were closed by somebody who died
        before the rest was done.
        """
        try:
            job = Job.fetch(run.id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return
        if job.get_status(refresh=False) in (JobStatus.FINISHED, JobStatus.FAILED):
            return
        worker = self._worker
        with self._redis.pipeline() as pipe:
            execution = Execution.create(job, EXECUTION_TTL, pipe, worker.name)
            worker.executions[execution.id] = execution
            worker.set_state(WorkerStatus.BUSY, pipe)
            worker.heartbeat(pipeline=pipe)
            job.prepare_for_execution(worker.name, pipe)
            pipe.persist(job.key)
            try:
                pipe.execute()
            except RedisError:
                del worker.executions[execution.id]  # for which RQ's worker would call itself busy
                raise
        self._tickets[run.key] = _Ticket(job, execution)

    def close(self, run: Run, outcome: Outcome) -> None:
        """Write down how the job ended, in one transaction."""
        ticket = self._tickets.get(run.key)
        if ticket is None:
            return
        job, execution = ticket.job, ticket.execution
        job.ended_at = now()
        by: dict[str, Any] = {
            "worker_name": self._worker.name,
            "execution_id": execution.id,
            "execution_started_at": execution.created_at,
            "execution_ended_at": job.ended_at,
        }
        with self._redis.pipeline() as pipe:
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
            pipe.execute()
        del self._tickets[run.key]

    def discard(self, run: Run) -> None:
        """Forget a run that does not end here."""
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
