"""A request's jobs: submitted together, followed as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

from api.errors import JobCancelledError, StoppingError, failure
from api.feed import Feed
from api.relay import Admission, Relay
from api.repeating import end
from shared.errors import MiniVaultError
from shared.events import AnyEvent, Cancelled, Done, Failed, Started, Token

Spoken: TypeAlias = Started | Token | Done


class Choices:
    """What the jobs of a request say, as they say it. Made by `submitted`.

    A choice that fails is the failure of the whole request: OpenAI's answers have no place for
    less. The others then end as all jobs do that nobody follows.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.job_ids = [feed.job_id for feed in feeds]
        self._feeds = feeds
        # Small: a client that does not read is served from the log, not from here.
        self._said: asyncio.Queue[tuple[int, Spoken] | Exception | None] = asyncio.Queue(1)
        self._first: tuple[int, Spoken] | None = None
        self._going_on = len(feeds)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._listen(number, feed), name=f"choice {number}")
            for number, feed in enumerate(self._feeds)
        ]
        try:
            yield
        finally:
            for task in tasks:
                await end(task)

    async def begin(self, seconds: float) -> None:
        """Wait until one job is under way, but no longer than this.

        So a request that can't be served, as its prompt is too long, is refused with a status of
        its own, and one that waits long is not left without an answer.

        Raises:
            MiniVaultError: why a job has failed.
        """
        try:
            async with asyncio.timeout(seconds):
                self._first = await self._next()
        except TimeoutError:
            return

    async def __aiter__(self) -> AsyncIterator[tuple[int, Spoken]]:
        """Events with the number of their choice, until all have ended.

        Raises:
            MiniVaultError: why a job has failed, or why it can't be followed.
        """
        spoken, self._first = self._first, None
        while self._going_on:
            spoken = spoken or await self._next()
            if spoken is not None:
                yield spoken
            spoken = None

    async def _next(self) -> tuple[int, Spoken] | None:
        """None where a choice has ended."""
        said = await self._said.get()
        if isinstance(said, Exception):
            raise said
        if said is None:
            self._going_on -= 1
        return said

    async def _listen(self, number: int, feed: Feed) -> None:
        end: Exception | None
        try:
            end = await self._follow(number, feed)
        except StoppingError:
            job = f"GET /jobs/{feed.job_id}/events"
            end = StoppingError(f"This process is stopping. The job goes on: see {job}.")
        except Exception as error:  # noqa: BLE001 (whoever reads raises it)
            end = error
        await self._said.put(end)

    async def _follow(self, number: int, feed: Feed) -> MiniVaultError | None:
        """Why the job has failed, if it has; one that was put back goes on behind its failure."""
        last: AnyEvent | None = None
        async for event in feed:
            last = event
            if isinstance(event, Spoken):
                await self._said.put((number, event))
        match last:
            case Failed():
                return failure(last)
            case Cancelled():
                return JobCancelledError()
            case _:
                return None


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
            except MiniVaultError:
                await relay.withdraw(
                    each
                    for each, feed in zip(admissions, feeds, strict=False)
                    if each.request.id == feed.job_id
                )
                raise
        choices = Choices(feeds)
        await stack.enter_async_context(choices.listening())
        yield choices
