"""A request's jobs: submitted together, followed as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from redis.exceptions import RedisError

from api.errors import JobCancelledError, StoppingError, failure
from api.feed import Feed
from api.relay import Admission, Relay
from api.repeating import end
from api.shortcut import Make, Shortcut
from shared.errors import MiniVaultError
from shared.events import AnyEvent, Cancelled, Done, Failed, Started, Token

Spoken: TypeAlias = Started | Token | Done
Said: TypeAlias = tuple[int, Spoken]
"""An event, and the number of the choice whose it is."""


class Choices:
    """What the jobs of a request say, as they say it. Made by `submitted`.

    A choice that fails is the failure of the whole request: OpenAI's answers have no place for
    less. The others then end as all jobs do that nobody follows.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.job_ids = [feed.job_id for feed in feeds]
        self._feeds = feeds
        # Small: a client that does not read is served from the log, not from here.
        self._queue: asyncio.Queue[list[Said] | Exception | None] = asyncio.Queue(1)
        self._said = self._merged() if len(feeds) > 1 else _spoken(0, feeds[0])
        self._tasks: list[asyncio.Task[Any]] = []
        self._first: asyncio.Task[list[Said]] | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for task in self._tasks:
                await end(task)
            await asyncio.gather(*self._tasks, return_exceptions=True)  # what nobody waited for
            await self._said.aclose()

    def shortcut(self, make: Make) -> Shortcut | None:
        """Several jobs have none: what they say is put in a row."""
        return Shortcut(self._feeds[0], make) if len(self._feeds) == 1 else None

    async def begin(self, seconds: float) -> None:
        """Wait until one job is under way, but no longer than this.

        So a request that can't be served, as its prompt is too long, is refused with a status of
        its own, and one that waits long is not left without an answer.

        Raises:
            MiniVaultError: why a job has failed.
        """
        self._first = asyncio.create_task(self._next(), name="first event")
        self._tasks.append(self._first)
        done, _ = await asyncio.wait([self._first], timeout=seconds)
        if done:
            self._first.result()

    async def __aiter__(self) -> AsyncIterator[Said]:
        """One by one, as `batches` has them."""
        async for batch in self.batches():
            for said in batch:
                yield said

    async def batches(self) -> AsyncIterator[list[Said]]:
        """Events, until all jobs have ended; those that come together at once.

        Raises:
            MiniVaultError: why a job has failed, or why it can't be followed.
        """
        if self._first is not None:
            yield await self._first
        async for batch in self._said:
            yield batch

    async def _next(self) -> list[Said]:
        return await anext(self._said)

    async def _merged(self) -> AsyncGenerator[list[Said]]:
        self._tasks += [
            asyncio.create_task(self._listen(number, feed), name=f"choice {number}")
            for number, feed in enumerate(self._feeds)
        ]
        going_on = len(self._feeds)
        while going_on:
            said = await self._queue.get()
            if isinstance(said, Exception):
                raise said
            if said is None:
                going_on -= 1
            else:
                yield said

    async def _listen(self, number: int, feed: Feed) -> None:
        failed: Exception | None = None
        try:
            async for said in _spoken(number, feed):
                await self._queue.put(said)
        except Exception as error:  # noqa: BLE001 (whoever reads raises it)
            failed = error
        await self._queue.put(failed)


async def _spoken(number: int, feed: Feed) -> AsyncGenerator[list[Said]]:
    """Raises MiniVaultError: why the job has failed; one that was put back goes on behind that."""
    last: AnyEvent | None = None
    try:
        async for events in feed.batches():
            last = events[-1]
            if said := [(number, event) for event in events if isinstance(event, Spoken)]:
                yield said
    except StoppingError as error:
        job = f"GET /jobs/{feed.job_id}/events"
        raise StoppingError(f"This process is stopping. The job goes on: see {job}.") from error
    match last:
        case Failed():
            raise failure(last)
        case Cancelled():
            raise JobCancelledError


@asynccontextmanager
async def submitted(relay: Relay, admissions: Sequence[Admission]) -> AsyncIterator[Choices]:
    """Submit a request's jobs, all or none, and follow them.

    Raises:
        QueueFullError: and the others that `Relay.submit` raises.
    """
    async with AsyncExitStack() as stack:
        feeds: list[Feed] = []
        for number, admission in enumerate(admissions):
            room = admission._replace(followed_by=len(admissions) - number - 1)
            try:
                feeds.append(await stack.enter_async_context(relay.submit(room)))
            except (MiniVaultError, RedisError):
                await relay.withdraw(
                    each
                    for each, feed in zip(admissions, feeds, strict=False)
                    if each.request.id == feed.job_id
                )
                raise
        choices = Choices(feeds)
        await stack.enter_async_context(choices.listening())
        yield choices
