"""How fast jobs get through of late, and so when it is worth asking again."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Final

from redis.asyncio import Redis

from shared import names
from shared.queue import workers_async

FRESH_SECONDS: Final = 1.0


class Pace:
    """Seconds per job and model, as the workers have measured them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._seconds: dict[str, float] = {}

    async def seconds_per_job(self, model: str) -> float | None:
        """What each job in front adds to a wait.

        None if no live worker serves the model, or nothing has been measured yet.
        """
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now - self._read_at > FRESH_SECONDS:
                self._seconds = await self._measure()
                self._read_at = now
        return self._seconds.get(model)

    async def next_turn(self, model: str) -> int | None:
        """Whole seconds until a job leaves the queue."""
        return _whole(await self.seconds_per_job(model))

    async def next_turn_of_one(self, model: str) -> int | None:
        """Whole seconds until one of a single client's jobs ends: clients take turns."""
        seconds = await self.seconds_per_job(model)
        if seconds is None:
            return None
        clients = await self._redis.zcard(names.turns(model))
        return _whole(seconds * max(1, clients))

    async def _measure(self) -> dict[str, float]:
        in_a_slot: dict[bytes, bytes] = await self._redis.hgetall(names.PACE)  # type: ignore[assignment]
        slots: Counter[str] = Counter()
        for worker in await workers_async(self._redis):
            slots.update(dict.fromkeys(worker.models, worker.slots))
        return {
            model.decode(): float(seconds) / slots[model.decode()]
            for model, seconds in in_a_slot.items()
            if slots[model.decode()]
        }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, math.ceil(seconds))
