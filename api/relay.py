"""From a request to its events: subscribe, wait for the acknowledgement, enqueue, follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from redis.asyncio import Redis

from api.feed import Feed
from api.hub import Subscriptions
from api.inbox import Inbox
from shared import log
from shared.errors import JobNotFoundError
from shared.events import AnyEvent, is_terminal
from shared.job import GenerationRequest
from shared.queue import JobQueue


class Relay:
    """Opens feeds. Each is a context, so that its subscription ends with the response."""

    def __init__(self, redis: Redis, subscriptions: Subscriptions, queue: JobQueue) -> None:
        self._redis = redis
        self._subscriptions = subscriptions
        self._queue = queue
        self._ends_at: float | None = None

    @asynccontextmanager
    async def submit(self, request: GenerationRequest) -> AsyncIterator[Feed]:
        """Enqueue a job and follow it from its first event.

        Raises:
            RedisUnavailableError: no subscription could be had; nothing was enqueued.
        """
        # Subscribed first: a worker may be done before this process looks again.
        async with self._subscriptions.subscribe(request.id) as inbox:
            await to_thread.run_sync(self._queue.submit, request)
            yield self._feed(request.id, inbox, after=0)

    @asynccontextmanager
    async def resume(self, job_id: str, after: int) -> AsyncIterator[Feed | None]:
        """Follow a job behind event `after`; None if it ended there.

        Raises:
            JobNotFoundError: there is no such job.
        """
        past = await self.read(job_id)
        if is_terminal(past[-1]) and past[-1].seq <= after:
            yield None
            return
        async with self._subscriptions.subscribe(job_id) as inbox:
            # A number the log has not reached would wait for an end that never gets there.
            yield self._feed(job_id, inbox, after=min(after, past[-1].seq))

    async def read(self, job_id: str) -> list[AnyEvent]:
        """Everything that has happened to a job; never empty.

        Raises:
            JobNotFoundError: there is no such job.
        """
        events = await log.read(self._redis, job_id)
        if not events:
            raise JobNotFoundError
        return events

    def stop(self, grace: float) -> None:
        """Let feeds go on for `grace` seconds, then end them."""
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + grace
        loop.call_at(self._ends_at, self._subscriptions.wake)

    def _feed(self, job_id: str, inbox: Inbox, *, after: int) -> Feed:
        async def read_log(last: int) -> list[AnyEvent] | None:
            events = await log.read(self._redis, job_id, last)
            return events if events or await log.exists(self._redis, job_id) else None

        return Feed(read_log, inbox, after=after, stopping=self._stopping)

    def _stopping(self) -> bool:
        return self._ends_at is not None and asyncio.get_running_loop().time() >= self._ends_at
