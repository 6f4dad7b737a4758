"""Rate limits: a sliding window log a client, in Redis, shared by all API processes.

A client is an API key, wherever its requests come from, or where there are none an address.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

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


class _InOneTrip:
    """What a bucket's script is run on: it looks where that leaves the client, too."""

    def __init__(self, redis: Redis, interval: int) -> None:
        """`interval` in milliseconds."""
        self._redis = redis
        self._interval = interval
        self.used = 0
        self.oldest: float | None = None
        """When the first one that counts was taken, in milliseconds since the epoch."""

    async def evalsha(self, sha: str, _keys: int, key: str, now: int, *args: str | int) -> Any:
        """Also drops what left the window, and lets an idle key expire."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.evalsha(sha, 1, key, now, *args)
        pipe.zremrangebyscore(key, 0, now - self._interval)
        pipe.pexpire(key, self._interval)
        pipe.zcard(key)
        pipe.zrange(key, 0, 0, withscores=True)
        try:
            verdict, _, _, self.used, oldest = await pipe.execute()
        except NoScriptError:  # the server is new or was restarted
            await self._redis.script_load(_PUT_ITEM)
            return await self.evalsha(sha, 1, key, now, *args)
        self.oldest = oldest[0][1] if oldest else None
        return verdict


class ClientBucket(RedisBucket):
    """One client's window. Only a name and a connection: made for a request, then forgotten."""

    is_async = True

    def __init__(self, redis: Redis, rate: Rate, name: str) -> None:
        self._rate = rate
        self._trip = _InOneTrip(redis, rate.interval)
        super().__init__([rate], cast("Redis", self._trip), name, _SCRIPT_SHA)

    @property
    def standing(self) -> Standing:
        """Where the client is, once something was put in."""
        if self._trip.oldest is None:
            return Standing(self._rate.limit, 1)
        ends_at = self._trip.oldest + self._rate.interval
        seconds = max(1, math.ceil((ends_at - _now()) / 1000))
        return Standing(max(0, self._rate.limit - self._trip.used), seconds)


class ClientBuckets(BucketFactory):
    """Finds a client's bucket. Registers none with the library's leak task: buckets do without."""

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

    async def take(self, client: str) -> tuple[bool, Standing]:
        """Whether there was a permit left, and where the client is now.

        In one round trip; the library's `Limiter` keeps the bucket, and so the second, to itself.
        """
        item = self.wrap_item(client)
        bucket = self.get(item)
        admitted = await bucket.put(item)  # type: ignore[misc]  # awaitable: the client is async
        return bool(admitted), bucket.standing


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
        admitted, standing = await self._buckets.take(await self.identifier(request))
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

    async def failed(self, address: str) -> None:
        """Count one more.

        Raises:
            RateLimitedError: there were too many.
        """
        try:
            async with in_time():
                counted, standing = await self._buckets.take(address)
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
