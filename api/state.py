"""What lives as long as the process, made when it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from api.hub import Subscriptions
from api.limits import ClientRateLimiter, limiter
from api.proxies import Proxies
from api.relay import Relay
from shared.queue import JobQueue
from shared.redis import connect, connect_async
from shared.settings import Settings

PROCESS = "api"


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    redis: Redis
    """For threads: RQ knows no other."""
    redis_async: AsyncRedis
    relay: Relay
    proxies: Proxies
    limiter: ClientRateLimiter | None


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[State]:
    with connect(settings, PROCESS) as redis:
        async with (
            connect_async(settings, PROCESS) as redis_async,
            Subscriptions(redis_async) as subscriptions,
        ):
            queue = JobQueue(redis, settings.models, result_ttl=settings.result_ttl)
            proxies = Proxies(settings.trusted_proxies)
            yield State(
                settings=settings,
                redis=redis,
                redis_async=redis_async,
                relay=Relay(redis_async, subscriptions, queue),
                proxies=proxies,
                limiter=limiter(settings.rate_limit, redis_async, proxies),
            )
