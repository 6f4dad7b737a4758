"""From a request to its events: subscribe, wait for the acknowledgement, enqueue, follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.contextvars import bind_contextvars

from api.attendance import Attendance
from api.caller import Caller
from api.deadline import in_time
from api.feed import PAGE, Feed
from api.hub import Subscriptions
from api.metrics import ApiMetrics
from api.pace import Pace
from shared import log
from shared.allotment import Allotment
from shared.errors import (
    JobExpiredError,
    JobNotFoundError,
    JobNotOverError,
    MiniVaultError,
    QueueFullError,
    RedisUnavailableError,
    TooManyInFlightError,
)
from shared.events import AnyEvent, is_terminal
from shared.job import GenerationRequest
from shared.logging import get_logger
from shared.queue import Idempotency, JobQueue, Limits, Submission

_END_SECONDS: Final = 2.5
"""How long a job that was cancelled is waited for."""

logger = get_logger()


class Admission(NamedTuple):
    """A valid request that may be submitted."""

    request: GenerationRequest
    ttl: float
    """Seconds for which it may wait for a worker."""
    idempotency: Idempotency | None
    max_in_flight: int | None = None
    """Jobs that the client may have waiting and running; None: as many as everybody."""
    allotment: Allotment | None = None
    followed_by: int = 0
    """Jobs of the same request that come behind it: without room for them there is none for it."""


class Relay:
    """Opens feeds. Each is a context, so that its subscription ends with the response."""

    def __init__(
        self,
        redis: Redis,
        subscriptions: Subscriptions,
        queue: JobQueue,
        limits: Limits,
        *,
        feeds: set[Feed],
        attendance: Attendance,
        pace: Pace,
        metrics: ApiMetrics,
    ) -> None:
        """`feeds` is kept to be those open now."""
        self._redis = redis
        self._subscriptions = subscriptions
        self._queue = queue
        self._limits = limits
        self._feeds = feeds
        self._attendance = attendance
        self._pace = pace
        self._metrics = metrics
        self._ends_at: float | None = None

    @property
    def draining(self) -> bool:
        """This process is about to end and should be given nothing new."""
        return self._ends_at is not None

    @asynccontextmanager
    async def submit(self, admission: Admission) -> AsyncIterator[Feed]:
        """Enqueue a job, or find it by its Idempotency-Key, and follow it from its first event.

        Raises:
            RedisUnavailableError: the job may or may not have been accepted.
            QueueFullError: and the others that `JobQueue.submit` raises.
            JobExpiredError: the job that the key stands for has ended and is forgotten.
        """
        # Both are under way at once. A worker may be done before we are heard to subscribe, but not
        # unseen: a feed that has not heard the first event looks at the log, behind both.
        request = admission.request
        async with self._follow(request.id, after=0, key=request.key) as feed:
            job_id = await self.enqueue(admission)
            if job_id == feed.job_id:
                await self._subscriptions.acknowledged(job_id)
                yield feed
                return
        async with self.resume(job_id, 0, _owner(admission.request)) as earlier:
            assert earlier is not None  # something follows 0
            yield earlier

    async def enqueue(self, admission: Admission) -> str:
        """The id of the new job, or of the one that the Idempotency-Key stands for.

        Raises as `submit`; refusals say when to try again.
        """
        request, ttl, idempotency, max_in_flight, allotment, followed_by = admission
        limits = self._limits
        if max_in_flight is not None:
            limits = limits._replace(max_in_flight=max_in_flight)
        async with in_time():
            pace = await self._pace.seconds_per_job(request.model)
            submission = Submission(
                limits=Limits(*(limit - followed_by for limit in limits)),
                ttl=ttl,
                attended_for=None if request.background else self._attendance.lease,
                idempotency=idempotency,
                seconds_per_job=pace,
                allotment=allotment,
            )
            try:
                job_id = await self._queue.submit(request, submission)
            except QueueFullError as error:
                error.retry_after = await self._pace.next_turn(request.model)
                raise
            except TooManyInFlightError as error:
                error.retry_after = await self._pace.next_turn_of_one(request.model)
                raise
        bind_contextvars(job_id=job_id)  # for what is logged about the request from here on
        logger.info("job submitted" if job_id == request.id else "job known", model=request.model)
        return job_id

    @asynccontextmanager
    async def resume(self, job_id: str, after: int, caller: Caller) -> AsyncIterator[Feed | None]:
        """Follow a job behind event `after`; None if it ended there.

        Raises:
            JobNotFoundError: there is no such job, or it is not the caller's.
            JobExpiredError: there was one.
            RedisUnavailableError: nobody knows.
        """
        bind_contextvars(job_id=job_id)
        async with in_time():
            last = await self._last(job_id, caller)
            if not is_terminal(last):
                await self._attendance.renew([job_id])
        if is_terminal(last) and last.seq <= after:
            yield None
            return
        # A number the log has not reached would wait for an end that never gets there.
        latest = last if last.seq <= after else None
        after = min(after, last.seq)
        async with self._follow(job_id, after=after, key=caller.key, latest=latest) as feed:
            await self._subscriptions.acknowledged(job_id)
            yield feed

    async def read(self, job_id: str, caller: Caller) -> list[AnyEvent]:
        """Everything that has happened to a job; never empty.

        Raises as `resume`.
        """
        bind_contextvars(job_id=job_id)
        async with in_time():
            await self._last(job_id, caller)
            return await self._read(job_id)

    async def cancel(self, job_id: str, caller: Caller) -> list[AnyEvent]:
        """Ask for a job's end; returns what has happened to it by now.

        Raises as `resume`.
        """
        bind_contextvars(job_id=job_id)
        async with in_time():
            await self._last(job_id, caller)
            await self._queue.cancel(job_id)
            return await self._read(job_id)

    async def erase(self, job_id: str, caller: Caller) -> None:
        """Forget a job and what it said; cancel it first if it has not ended.

        Raises as `resume`, and:
            JobNotOverError: its end takes longer than a client should wait.
        """
        await self.cancel(job_id, caller)
        try:
            async with asyncio.timeout(_END_SECONDS):
                while not await self._queue.erase(job_id):  # noqa: ASYNC110 (happens elsewhere)
                    await asyncio.sleep(_END_SECONDS / 50)
        except TimeoutError:
            raise JobNotOverError from None

    async def withdraw(self, admissions: Iterable[Admission]) -> None:
        """End jobs that were submitted just now, as if they had never been.

        Where Redis is away they end as all jobs do that nobody follows.
        """
        with suppress(RedisError, RedisUnavailableError):
            async with in_time():
                for admission in admissions:
                    await self._queue.withdraw(admission.request, admission.idempotency)

    def stop(self, grace: float) -> None:
        """Let feeds go on for `grace` seconds, then end them."""
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + grace
        loop.call_at(self._ends_at, self._subscriptions.wake)

    @asynccontextmanager
    async def _follow(
        self, job_id: str, *, after: int, key: str, latest: AnyEvent | None = None
    ) -> AsyncIterator[Feed]:
        """Its subscription is on the way to the server, but perhaps not yet there."""

        async def read_log(last: int) -> list[AnyEvent]:
            async with in_time():
                events = await log.read(self._redis, job_id, last, count=PAGE)
                if not events and not await log.exists(self._redis, job_id):
                    raise await self._why_no_log(job_id)
            if events and feed.live:
                self._metrics.repaired()
            return events

        inbox = self._subscriptions.open(job_id)
        feed = Feed(
            job_id,
            read_log,
            inbox,
            after=after,
            latest=latest,
            stopping=self._stopping,
            key=key,
        )
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            self._subscriptions.close(job_id, inbox)

    async def _last(self, job_id: str, caller: Caller) -> AnyEvent:
        """The latest event of a job of the caller's. What is another's is as if it were not."""
        owner, last = await log.head(self._redis, job_id)
        if owner is None or not caller.may_see(owner):
            raise JobNotFoundError
        if last is None:
            raise JobExpiredError
        return last

    async def _read(self, job_id: str) -> list[AnyEvent]:
        events = await log.read(self._redis, job_id)
        if not events:
            raise await self._why_no_log(job_id)
        return events

    async def _why_no_log(self, job_id: str) -> MiniVaultError:
        owner, _ = await log.head(self._redis, job_id)
        return JobNotFoundError() if owner is None else JobExpiredError()

    def _stopping(self) -> bool:
        return self._ends_at is not None and asyncio.get_running_loop().time() >= self._ends_at


def _owner(request: GenerationRequest) -> Caller:
    return Caller(request.client, request.key, admin=not request.key)
