"""The way from the API into RQ, and what can be asked of the queues from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker import BaseWorker

from shared import events, job, names, scripts
from shared.allotment import TTL as ALLOTMENT_TTL
from shared.allotment import Allotment, day_of, seconds_to_next_day
from shared.errors import (
    DailyTokensError,
    IdempotencyConflictError,
    QueueFullError,
    TooManyInFlightError,
)
from shared.events import Queued
from shared.job import GenerationRequest

FAILURE_TTL: Final = 7 * 24 * 3600
"""Seconds that a failed job is kept with its reason, and can be put back."""
IDEMPOTENCY_TTL: Final = 24 * 3600
"""Seconds that an Idempotency-Key stands for its job."""


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
    host: str = ""
    parent: int = 0
    """Process that starts this one again; what a supervisor knows."""
    coming: tuple[str, ...] = ()
    """Models that are about to be in memory."""
    places: int = 1
    """Models that may be in memory at once."""
    refused: tuple[str, ...] = ()
    """Models that did not fit into its memory of late."""
    swaps: int = 0
    """Models that it has put out of memory for another one."""


class Limits(NamedTuple):
    """How much may be in the queue when a job is submitted."""

    max_queued: int
    """Jobs that wait for the model."""
    max_in_flight: int
    """The client's jobs that have not ended."""


class Idempotency(NamedTuple):
    key: str
    fingerprint: str
    """Of the request; a key stands for one request."""


class Submission(NamedTuple):
    """What a job's submission asks for beside the job itself. In seconds from now on."""

    limits: Limits
    ttl: float
    """Until the job has waited too long."""
    attended_for: float | None
    """Until somebody must have said again that the job is followed; None: it need not be."""
    idempotency: Idempotency | None = None
    seconds_per_job: float | None = None
    """What each job in front adds to the wait."""
    allotment: Allotment | None = None
    """None: the key's tokens are not counted."""


class JobQueue:
    """RQ queues, one per model, so that a worker takes only what it serves."""

    def __init__(
        self,
        redis: AsyncRedis,
        *,
        result_ttl: int,
        rq_redis: Redis,
        ask: Callable[..., Awaitable[Any]] | None = None,
    ) -> None:
        """`result_ttl` in seconds: how long RQ keeps an ended job.

        RQ's objects are made with `rq_redis` because they want one; nothing is sent by it.
        `ask` sends the command of a submission, and returns its reply.
        """
        self._redis = redis
        self._ask = ask or redis.execute_command
        self._submit = scripts.load_async(redis, "submit")
        self._cancel = scripts.load_async(redis, "cancel")
        self._erase = scripts.load_async(redis, "erase")
        self._result_ttl = result_ttl
        self._rq_redis = rq_redis
        self._rq_alike: dict[str, list[str | bytes | int | float]] = {}

    async def submit(self, request: GenerationRequest, submission: Submission) -> str:
        """Append `queued` and enqueue, both or neither.

        Returns the id of the job: an earlier one's where the same was submitted under the same
        Idempotency-Key.

        Raises:
            QueueFullError: too many jobs wait.
            TooManyInFlightError: too many of the client's jobs have not ended.
            DailyTokensError: the API key has too few tokens left today.
            IdempotencyConflictError: the key stands for another request.
        """
        limits, ttl, attended_for, idempotency, seconds_per_job, allotment = submission
        client, model = request.client, request.model
        event = Queued(seq=1, id=request.id, model=model, position=0, request_id=request.request_id)
        verdict, what = await self._asked(
            [
                names.events(request.id),
                names.JOBS,
                names.order(model),
                names.turns(model),
                names.clock(model),
                names.DEADLINES,
                names.ATTENDED,
                names.in_flight(client),
                names.idempotency(client, idempotency.key if idempotency else ""),
                rq_queue_key(model),
                Job.key_for(request.id),
                Queue.redis_queues_keys,
                names.wake(model),
                names.tokens(request.key, day_of(request.created_at)),
            ],
            [
                request.id,
                events.encode(event),
                job.encode(request),
                names.channel(request.id),
                request.created_at,
                request.priority,
                client,
                ttl,
                "" if attended_for is None else attended_for,
                limits.max_queued,
                limits.max_in_flight,
                idempotency.fingerprint if idempotency else "",
                IDEMPOTENCY_TTL,
                "" if seconds_per_job is None else seconds_per_job,
                *(("", "") if allotment is None else allotment),
                ALLOTMENT_TTL,
                *self._rq_fields(request),
            ],
        )
        match verdict:
            case b"accepted":
                return request.id
            case b"known":
                return str(what.decode())
            case b"conflict":
                raise IdempotencyConflictError
            case b"tokens":
                error = DailyTokensError(
                    f"{int(what)} tokens are left of this key's for today, and the request may "
                    f"use {allotment.reserved if allotment else 0}: its prompt, and `max_tokens`."
                )
                error.retry_after = seconds_to_next_day(request.created_at)
                raise error
            case b"queue_full":
                raise QueueFullError(f"{int(what)} jobs wait already; no more are taken.")
            case _:
                raise TooManyInFlightError(
                    f"{int(what)} of your jobs have not ended; no more are taken."
                )

    async def _asked(self, keys: Sequence[str], args: Sequence[str | bytes | float]) -> Any:
        """What the script of submissions answers."""
        script = self._submit
        try:
            return await self._ask("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:  # the server is new or was restarted
            return await self._ask("EVAL", script.script, len(keys), *keys, *args)

    async def cancel(self, job_id: str) -> bool:
        """Ask for a job's end, once or more often; False if it has ended."""
        return bool(
            await self._cancel(
                keys=[names.JOBS, names.UNSAVED, names.CLAIMS, names.CANCELS, names.CALLS],
                args=[job_id, names.calls("")],
            )
        )

    async def erase(self, job_id: str) -> bool:
        """Forget a job that is over, once or more often; False if it is not over yet."""
        return bool(
            await self._erase(
                keys=[names.JOBS, names.events(job_id), names.ended(job_id)], args=[job_id]
            )
        )

    async def withdraw(self, request: GenerationRequest, idempotency: Idempotency | None) -> None:
        """As `cancel`; and the job's Idempotency-Key stands for nothing again."""
        if idempotency is not None:
            await self._redis.delete(names.idempotency(request.client, idempotency.key))
        await self.cancel(request.id)

    async def position(self, job_id: str, model: str) -> int | None:
        """How many jobs wait in front of one; None if it does not wait."""
        rank: int | None = await self._redis.zrank(names.order(model), job_id)  # type: ignore[assignment]
        return rank

    def _rq_fields(self, request: GenerationRequest) -> list[str | bytes | int | float]:
        """The job as RQ's hash has it. All but three fields are the same for a model's jobs."""
        now = utcformat(rq_now())
        model = request.model
        if model not in self._rq_alike:
            self._rq_alike[model] = self._rq_job(model)
        return [
            *self._rq_alike[model],
            # What dashboards show: never the prompt.
            *("description", f"{model}, at most {request.params.max_tokens} tokens"),
            *("created_at", now, "enqueued_at", now),
        ]

    def _rq_job(self, model: str) -> list[str | bytes | int | float]:
        """What RQ writes for a job, but for what is the job's own."""
        rq_job = rq_queue(self._rq_redis, model).create_job(
            names.GENERATE_FUNCTION,
            timeout=-1,  # bounded by max_tokens; RQ's own time-out needs a work horse
            result_ttl=self._result_ttl,
            failure_ttl=FAILURE_TTL,
        )
        rq_job._status = JobStatus.QUEUED  # noqa: SLF001  (RQ sets it where it talks to Redis)
        fields = rq_job.to_dict(include_result=False)
        own = ("description", "created_at", "enqueued_at")
        return [part for pair in fields.items() if pair[0] not in own for part in pair]


def rq_queue(redis: Redis, model: str) -> Queue:
    return Queue(names.queue(model), connection=redis, serializer=JSONSerializer)


def rq_queue_key(model: str) -> str:
    return Queue.redis_queue_namespace_prefix + names.queue(model)


def queued_models(redis: Redis) -> list[str]:
    """Models that jobs were ever submitted for, whoever serves them."""
    prefix = Queue.redis_queue_namespace_prefix + names.queue("")
    keys: set[bytes] = redis.smembers(Queue.redis_queues_keys)  # type: ignore[assignment]
    queues = [key.decode() for key in keys]
    return sorted(name.removeprefix(prefix) for name in queues if name.startswith(prefix))


def workers(redis: Redis) -> dict[str, WorkerInfo]:
    """Live workers by name: those whose heartbeat has not run out."""
    found = {}
    for worker_key in BaseWorker.all_keys(connection=redis):
        name = worker_key.removeprefix(BaseWorker.redis_worker_namespace_prefix)
        raw = redis.get(names.worker_info(name))
        if isinstance(raw, bytes):
            found[name] = msgspec.json.decode(raw, type=WorkerInfo)
    return found


async def workers_async(redis: AsyncRedis) -> list[WorkerInfo]:
    """As `workers`, for asyncio and without the names."""
    return list((await named_workers_async(redis)).values())


async def named_workers_async(redis: AsyncRedis) -> dict[str, WorkerInfo]:
    """As `workers`, for asyncio."""
    keys: set[bytes] = await redis.smembers(BaseWorker.redis_workers_keys)  # type: ignore[assignment]
    prefix = BaseWorker.redis_worker_namespace_prefix
    found = sorted(key.decode().removeprefix(prefix) for key in keys)
    raws = await redis.mget([names.worker_info(name) for name in found]) if found else []
    return {
        name: msgspec.json.decode(raw, type=WorkerInfo)
        for name, raw in zip(found, raws, strict=True)
        if raw is not None
    }
