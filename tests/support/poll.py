"""Waiting for something to become true, with a deadline instead of a guess."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE = 0.01


def until(probe: Callable[[], T], *, seconds: float = 10, what: str = "condition") -> T:
    """The first truthy value of `probe()`; fails loudly at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {seconds} s; last: {value!r}")
        time.sleep(_PAUSE)


async def until_async(
    probe: Callable[[], Awaitable[T]], *, seconds: float = 10, what: str = "condition"
) -> T:
    """As `until`, without blocking the event loop."""
    deadline = time.monotonic() + seconds
    while True:
        value = await probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {seconds} s; last: {value!r}")
        await asyncio.sleep(_PAUSE)
