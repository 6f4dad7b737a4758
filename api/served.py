"""The models that clients may name: those of the settings, and those loaded at run time."""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio import Redis

from api.deadline import in_time
from shared import names
from shared.errors import UnknownModelError
from shared.settings import Settings


class Served:
    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settled = settings.models
        self._redis = redis

    async def names(self) -> tuple[str, ...]:
        """All of them, the default first.

        Raises:
            RedisUnavailableError: nobody knows.
        """
        async with in_time():
            added: set[bytes] = await self._redis.smembers(names.SERVED)  # type: ignore[assignment]
        return tuple(dict.fromkeys([*self._settled, *sorted(name.decode() for name in added)]))

    async def require(self, models: Iterable[str]) -> None:
        """Asks Redis only of what is not in the settings.

        Raises:
            UnknownModelError: one of them is not served.
            RedisUnavailableError: nobody knows.
        """
        if not set(models) <= set(self._settled):
            known = await self.names()
            if not set(models) <= set(known):
                raise UnknownModelError(f"There is no such model here. Known: {', '.join(known)}.")
