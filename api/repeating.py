"""What goes on beside the requests for as long as the process serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.exceptions import RedisError

from api.deadline import in_time
from shared.errors import RedisUnavailableError
from shared.logging import get_logger

RETRY_SECONDS: Final = 0.5
"""Pause after a failure, so that the first tick after an outage comes soon."""

log = get_logger()


@asynccontextmanager
async def repeating(tick: Callable[[], Awaitable[None]], *, every: float) -> AsyncIterator[None]:
    """Run `tick` every so many seconds. Redis may come and go."""
    task = asyncio.create_task(_repeat(tick, every))
    try:
        yield
    finally:
        await end(task)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel it until it is done: a cancellation that meets a failing connection can be lost."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


async def _repeat(tick: Callable[[], Awaitable[None]], every: float) -> None:
    failing = False
    while True:
        pause = every
        try:
            async with in_time():
                await tick()
            failing = False
        except (RedisError, RedisUnavailableError) as error:
            if not failing:  # an outage is told once
                log.warning("interrupted", what=tick.__qualname__, error=str(error))
            failing = True
            pause = min(every, RETRY_SECONDS)
        except Exception:
            log.exception("unexpected error", what=tick.__qualname__)
        await asyncio.sleep(pause)
