"""Every job that is not over, and those that failed, as Redis has them. For the operator alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from redis import Redis
from rq.job import Job
from rq.utils import current_timestamp, str_to_date

from shared import events, names
from shared.claim import worker_of
from shared.events import Failed
from shared.queue import queued_models, rq_queue, workers

WAITING: Final = "waiting"
RUNNING: Final = "running"
STUCK: Final = "stuck"
UNSAVED: Final = "unsaved"
FAILED: Final = "failed"


class JobNote(msgspec.Struct, frozen=True):
    id: str
    model: str
    """Empty if nobody knows any more."""
    state: str
    """waiting, running, stuck, unsaved or failed."""
    submitted_at: float | None
    """Seconds since the epoch."""
    note: str
    """Where it waits or runs; why it is stuck or failed."""
    retried: bool = False
    """A worker has died with it."""


class Books:
    """As they were at one moment."""

    def __init__(self, redis: Redis) -> None:
        """Read them.

        Raises:
            RedisError: they can't be.
        """
        self._redis = redis
        self.workers = workers(redis)
        """Live ones. One that has just died counts as live for a moment, unless it was told of."""
        models = queued_models(redis)
        with redis.pipeline() as pipe:
            pipe.zrange(names.JOBS, 0, -1, withscores=True)
            pipe.hgetall(names.CLAIMS)
            pipe.smembers(names.UNSAVED)
            pipe.hkeys(names.STRIKES)
            for model in models:
                pipe.zrange(names.order(model), 0, -1)
            for model in models:
                registry = rq_queue(redis, model).failed_job_registry
                pipe.zrangebyscore(registry.key, current_timestamp(), "+inf")
            jobs, claims, unsaved, strikes, *lists = pipe.execute()
        self._submitted = {job_id.decode(): float(time) for job_id, time in jobs}
        self._owners = dict(zip(_texts(claims.keys()), _texts(claims.values()), strict=True))
        self._unsaved = set(_texts(unsaved))
        self._retried = set(_texts(strikes))
        self._waiting = {
            job_id: (model, position)
            for model, order in zip(models, lists, strict=False)
            for position, job_id in enumerate(_texts(order))
        }
        self._failed = {
            job_id: model
            for model, registry in zip(models, lists[len(models) :], strict=True)
            for job_id in _texts(registry)
            if job_id not in self._submitted
        }

    def unfinished(self) -> list[JobNote]:
        """Jobs that are not over, the oldest first."""
        taken = [job_id for job_id in self._submitted if job_id not in self._waiting]
        origins = self._of_rq(taken, "origin")
        found = []
        for job_id, submitted_at in self._submitted.items():
            model, position = self._waiting.get(job_id, (None, 0))
            if model is None:
                model = origins.get(job_id, "").removeprefix(names.queue(""))
            state, note = self._state_of(job_id, model, position)
            retried = job_id in self._retried
            found.append(JobNote(job_id, model, state, submitted_at, note, retried))
        return found

    def failed(self) -> list[JobNote]:
        """Jobs that failed and can be put back, with the reasons."""
        created = self._of_rq(self._failed, "created_at")
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in self._failed:
                pipe.xrevrange(names.events(job_id), count=1)
            logs = pipe.execute()
        return [
            JobNote(
                job_id,
                model,
                FAILED,
                str_to_date(created[job_id]).timestamp() if job_id in created else None,
                _reason(log),
            )
            for (job_id, model), log in zip(self._failed.items(), logs, strict=True)
        ]

    @property
    def failed_count(self) -> int:
        return len(self._failed)

    def _state_of(self, job_id: str, model: str, position: int) -> tuple[str, str]:
        """The state and the note on it."""
        if job_id in self._unsaved:
            return UNSAVED, "has ended, its row is not written yet"
        if job_id in self._owners:
            worker = worker_of(self._owners[job_id])
            return (RUNNING, worker) if worker in self.workers else (STUCK, f"{worker} is gone")
        if job_id not in self._waiting:
            return STUCK, "in no queue"
        if not any(model in worker.models for worker in self.workers.values()):
            return STUCK, "no worker serves its model"
        return WAITING, f"{position} in front"

    def _of_rq(self, job_ids: Iterable[str], field: str) -> dict[str, str]:
        """A field of RQ's job hashes, where there is one."""
        job_ids = list(job_ids)
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(Job.key_for(job_id), field)
            values = pipe.execute()
        return {
            job_id: value.decode() for job_id, value in zip(job_ids, values, strict=True) if value
        }


def _reason(log: list[tuple[bytes, dict[bytes, bytes]]]) -> str:
    last = events.decode(log[0][1][b"event"]) if log else None
    return f"{last.code}: {last.message}" if isinstance(last, Failed) else "its log is gone"


def _texts(found: Any) -> list[str]:
    """Of whatever redis-py types a reply as."""
    return [member.decode() for member in found]
