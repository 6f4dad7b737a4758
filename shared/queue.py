"""The way from the API into RQ, and what can be asked of the queues from outside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from shared import names
from shared.events import Queued
from shared.job import GenerationRequest
from shared.log import EventLog

FAILURE_TTL: Final = 7 * 24 * 3600
"""Seconds that RQ keeps a failed job with its reason."""


class WorkerInfo(msgspec.Struct, frozen=True):
    """What a worker tells of itself with every heartbeat."""

    pid: int
    models: tuple[str, ...]
    """Served."""
    loaded: tuple[str, ...]
    slots: int
    running: int
    kv_bytes: int
    """Memory set aside for KV caches."""


class JobQueue:
    """RQ queues, one per model, so that a worker takes only what it serves."""

    def __init__(self, redis: Redis, models: Iterable[str], *, result_ttl: int) -> None:
        """`result_ttl` in seconds: how long RQ keeps an ended job."""
        self._redis = redis
        self._log = EventLog(redis, writer="api")
        self._result_ttl = result_ttl
        self._queues = {model: rq_queue(redis, model) for model in models}

    def submit(self, request: GenerationRequest) -> Queued:
        """Append `queued` and enqueue, both or neither. Returns the event."""
        queue = self._queues[request.model]
        event = Queued(seq=1, id=request.id, model=request.model, position=queue.count)
        rq_job = queue.create_job(
            names.GENERATE_FUNCTION,
            job_id=request.id,
            # What dashboards show: never the prompt.
            description=f"{request.model}, at most {request.params.max_tokens} tokens",
            timeout=-1,  # bounded by max_tokens; RQ's own time-out needs a work horse
            result_ttl=self._result_ttl,
            failure_ttl=FAILURE_TTL,
        )
        pipe: Pipeline = self._redis.pipeline(transaction=True)
        pipe.multi()  # before the first command, or RQ opens it again
        self._log.queue_begin(pipe, request, event)
        queue.enqueue_job(rq_job, pipeline=pipe)
        pipe.execute()
        return event


def rq_queue(redis: Redis, model: str) -> Queue:
    return Queue(names.queue(model), connection=redis, serializer=JSONSerializer)


def workers(redis: Redis) -> dict[str, WorkerInfo]:
    """Live workers by name: those whose heartbeat has not run out."""
    found = {}
    for worker_key in BaseWorker.all_keys(connection=redis):
        name = worker_key.removeprefix(BaseWorker.redis_worker_namespace_prefix)
        raw = redis.get(names.worker_info(name))
        if isinstance(raw, bytes):
            found[name] = msgspec.json.decode(raw, type=WorkerInfo)
    return found
