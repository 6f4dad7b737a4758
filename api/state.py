"""What lives as long as the process, made when it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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
from api.webhooks import DELIVERY_SECONDS, Webhooks, webhooks_of
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
    proxies: Proxies
    limiter: ClientRateLimiter | None
    webhooks: Webhooks | None
    """None: there are none here."""


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
            async with AsyncExitStack() as stack:
                for tick, seconds in (
                    (attendance.renew_all, attendance.interval),
                    (line.look, LOOK_SECONDS),
                ):
                    await stack.enter_async_context(repeating(tick, every=seconds))
                webhooks = webhooks_of(settings, redis, metrics)
                if webhooks is not None:
                    await stack.enter_async_context(webhooks)
                    await stack.enter_async_context(
                        repeating(webhooks.look, every=DELIVERY_SECONDS)
                    )
                yield State(
                    settings=settings,
                    redis=redis,
                    metrics=metrics,
                    relay=relay,
                    proxies=proxies,
                    limiter=limiter(settings.rate_limit, redis, proxies),
                    webhooks=webhooks,
                )
