"""How long a request waits for Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared.errors import RedisUnavailableError

ANSWER_SECONDS: Final = 3.0
"""Whoever asks is told of an outage rather than made to sit it out. A server that hangs keeps
its connections open, so nothing else would say so this soon."""


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Bound what is asked of Redis inside.

    Raises:
        RedisUnavailableError: it took too long.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        raise RedisUnavailableError("Redis does not answer in time.") from None
