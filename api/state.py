"""What lives as long as the process, made when it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from api.attendance import Attendance
from api.feed import Feed
from api.hub import Subscriptions
from api.limits import ClientRateLimiter, limiter
from api.line import LOOK_SECONDS, Line
from api.metrics import ApiMetrics
from api.pace import Pace
from api.proxies import Proxies
from api.relay import Relay
from api.repeating import repeating
from api.tokenizers import Tokenizers
from shared.queue import JobQueue, Limits
from shared.redis import connect, connect_async
from shared.settings import Settings

PROCESS = "api"


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    redis: Redis
    metrics: ApiMetrics
    relay: Relay
    tokenizers: Tokenizers
    proxies: Proxies
    limiter: ClientRateLimiter | None


@asynccontextmanager
async def open_state(settings: Settings, metrics: ApiMetrics) -> AsyncIterator[State]:
    feeds: set[Feed] = set()
    metrics.streams.set_function(lambda: len(feeds))
    with connect(settings, PROCESS) as rq_redis:
        async with connect_async(settings, PROCESS) as redis, Subscriptions(redis) as subscriptions:
            proxies = Proxies(settings.trusted_proxies)
            pace = Pace(redis)
            line = Line(redis, feeds, pace)
            attendance = Attendance(redis, feeds, settings.disconnect_grace)
            relay = Relay(
                redis,
                subscriptions,
                JobQueue(redis, settings.models, result_ttl=settings.result_ttl, rq_redis=rq_redis),
                Limits(settings.max_queued, settings.max_in_flight),
                feeds=feeds,
                attendance=attendance,
                pace=pace,
                metrics=metrics,
            )
            async with (
                repeating(attendance.renew_all, every=attendance.interval),
                repeating(line.look, every=LOOK_SECONDS),
            ):
                yield State(
                    settings=settings,
                    redis=redis,
                    metrics=metrics,
                    relay=relay,
                    tokenizers=Tokenizers(redis),
                    proxies=proxies,
                    limiter=limiter(settings.rate_limit, redis, proxies),
                )
