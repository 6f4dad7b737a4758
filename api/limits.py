"""Rate limits: a sliding window log a client, in Redis, shared by all API processes.

A client is an API key, wherever its requests come from, or where there are none an address.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from fastapi_limiter.depends import RateLimiter
from pyrate_limiter import BucketFactory, Duration, Limiter, Rate, RateItem
from pyrate_limiter.buckets.redis_bucket import LuaScript, RedisBucket
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError
from starlette.requests import Request
from starlette.responses import Response

from api.caller import Caller
from api.context import reply_headers
from api.deadline import in_time
from shared import names
from shared.errors import RateLimitedError, RedisUnavailableError

# The library counts up to the caller's own clock, so it overlooks what another process has just
# put in with a clock a millisecond ahead. Nothing in the window lies in the future: count it all.
_PUT_ITEM: Final = LuaScript.PUT_ITEM.replace("window_start, now)", "window_start, '+inf')")
_SCRIPT_SHA: Final = hashlib.sha1(_PUT_ITEM.encode(), usedforsecurity=False).hexdigest()
_POLICY: Final = "default"
_FAILED_LOGINS: Final = Rate(60, Duration.MINUTE)


class Standing(NamedTuple):
    remaining: int
    seconds: int
    """Until one more request is allowed."""


class ClientBucket(RedisBucket):
    """One client's window. Only a name and a connection: made for a request, then forgotten."""

    is_async = True

    def __init__(self, redis: Redis, rate: Rate, name: str) -> None:
        self._client = redis
        super().__init__([rate], redis, name, _SCRIPT_SHA)

    async def put(self, item: RateItem) -> bool:
        try:
            return await self._put(item)
        except NoScriptError:  # the server is new or was restarted
            await self._client.script_load(_PUT_ITEM)
            return await self._put(item)

    async def _put(self, item: RateItem) -> bool:
        return bool(await super().put(item))  # type: ignore[misc]  # awaitable: the client is async


class ClientBuckets(BucketFactory):
    """Finds a client's bucket. Registers none with the library's leak task: see `standing`."""

    def __init__(
        self, redis: Redis, rate: Rate, name: Callable[[str], str] = names.rate_limit
    ) -> None:
        """`name` is that of a client's window."""
        self._redis = redis
        self._name = name
        self.rate = rate

    def wrap_item(self, name: str, weight: int = 1) -> RateItem:
        return RateItem(name, _now(), weight=weight)

    def get(self, item: RateItem) -> ClientBucket:
        return ClientBucket(self._redis, self.rate, self._name(item.name))

    async def standing(self, client: str) -> Standing:
        """Where a client is; also drops what left the window and lets an idle key expire."""
        key = self._name(client)
        pipe = self._redis.pipeline(transaction=False)
        pipe.zremrangebyscore(key, 0, _now() - self.rate.interval)
        pipe.pexpire(key, self.rate.interval)
        pipe.zcard(key)
        pipe.zrange(key, 0, 0, withscores=True)
        _, _, used, oldest = await pipe.execute()
        ends_at = oldest[0][1] + self.rate.interval if oldest else 0
        seconds = max(1, math.ceil((ends_at - _now()) / 1000))
        return Standing(max(0, self.rate.limit - used), seconds if oldest else 0)


class ClientRateLimiter(RateLimiter):
    """fastapi-limiter's dependency with one bucket a client.

    The library looks its route up in `app.routes` to key by it. Routes of an included router
    are no longer there, and the limit is one for all the routes that generate.
    """

    def __init__(self, buckets: ClientBuckets) -> None:
        super().__init__(limiter=Limiter(buckets), identifier=_client)
        self._buckets = buckets

    async def __call__(self, request: Request, _: Response | None = None) -> None:
        """Take a permit; refused requests take none.

        Raises:
            RateLimitedError: none is left; says when one will be.
        """
        rate = self._buckets.rate
        client = await self.identifier(request)
        admitted = await self.limiter.try_acquire_async(client, blocking=False)
        standing = await self._buckets.standing(client)
        window = rate.interval // 1000
        headers = reply_headers(request)
        headers["RateLimit-Policy"] = f'"{_POLICY}";q={rate.limit};w={window}'
        headers["RateLimit"] = f'"{_POLICY}";r={standing.remaining};t={standing.seconds}'
        if not admitted:
            raise RateLimitedError(
                f"{rate.limit} requests in {window} s are allowed; "
                f"the next one in {standing.seconds} s.",
                retry_after=max(1, standing.seconds),
            )


class RateLimits:
    """Everybody's limit, and those of keys that have one of their own."""

    def __init__(self, redis: Redis, default: str) -> None:
        """`default` as the settings have it, like `5/minute` or `off`."""
        self._redis = redis
        self._default = default
        self._limiters: dict[str, ClientRateLimiter] = {}

    async def take(self, request: Request, caller: Caller) -> None:
        """Take one of the caller's permits.

        Raises:
            RateLimitedError: none is left; says when one will be.
        """
        rate = caller.allowance.rate or self._default
        if rate == "off":
            return
        if rate not in self._limiters:  # as many as operators have thought of
            self._limiters[rate] = ClientRateLimiter(ClientBuckets(self._redis, _rate(rate)))
        await self._limiters[rate](request)


class FailedLogins:
    """Bounds what an address can make the service do and log without a valid key.

    It keeps out nobody who has one: whoever shares an address with them could lock them out.
    """

    def __init__(self, redis: Redis) -> None:
        self._buckets = ClientBuckets(redis, _FAILED_LOGINS, names.failed_logins)
        self._limiter = Limiter(self._buckets)

    async def failed(self, address: str) -> None:
        """Count one more.

        Raises:
            RateLimitedError: there were too many.
        """
        try:
            async with in_time():
                counted = await self._limiter.try_acquire_async(address, blocking=False)
                standing = await self._buckets.standing(address)
        except (RedisError, RedisUnavailableError):
            return  # uncounted, and as closed as before
        if not counted:
            raise RateLimitedError(
                f"Too many requests without a valid API key; the next one in {standing.seconds} s.",
                retry_after=max(1, standing.seconds),
            )


async def _client(request: Request) -> str:
    caller: Caller = request.state.caller
    return caller.client


def _rate(text: str) -> Rate:
    count, _, unit = text.partition("/")
    return Rate(int(count), Duration[unit.upper()])


def _now() -> int:
    """Milliseconds on the clock that API processes share."""
    return time.time_ns() // 1_000_000
