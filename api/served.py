"""The models that clients may name: those of the settings, and those loaded at run time."""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio import Redis

from api.caller import Caller
from api.deadline import in_time
from shared import names
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

    async def to(self, caller: Caller, wanted: Iterable[str | None]) -> tuple[str, ...]:
        """Those that the caller may use; the first is what a request without a name gets.

        Redis is asked only where those of the settings are none, or not all that is `wanted`.

        Raises:
            RedisUnavailableError: nobody knows.
        """
        settled = caller.models(self._settled)
        if settled and set(wanted) <= {None, *settled}:
            return settled
        return caller.models(await self.names())
