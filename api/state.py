"""What lives as long as the process, made when it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from starlette.requests import Request

from api.archive import Archive
from api.attendance import Attendance
from api.feed import Feed
from api.fleet import Fleet
from api.grammars import GrammarCheck
from api.hub import Subscriptions
from api.keyring import Keyring
from api.limits import FailedLogins, RateLimits
from api.line import LOOK_SECONDS, Line
from api.metrics import ApiMetrics
from api.open_streams import OpenStreams
from api.pace import Pace
from api.proxies import Proxies
from api.relay import Relay
from api.repeating import repeating
from api.rounds import ROUND_SECONDS, Rounds
from api.served import Served
from api.tokenizers import Tokenizers
from api.vigil import LOOK_SECONDS as VIGIL_SECONDS
from api.vigil import Vigil
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
    streams: OpenStreams
    tokenizers: Tokenizers
    proxies: Proxies
    keyring: Keyring
    limits: RateLimits
    logins: FailedLogins
    archive: Archive
    grammars: GrammarCheck
    served: Served
    fleet: Fleet
    webhooks: Webhooks | None
    """None: there are none here."""


def state_of(request: Request) -> State:
    state: State = request.state.app
    return state


@asynccontextmanager
async def open_state(settings: Settings, metrics: ApiMetrics) -> AsyncIterator[State]:
    feeds: set[Feed] = set()
    metrics.streams.set_function(lambda: len(feeds))
    with connect(settings, PROCESS) as rq_redis, GrammarCheck() as grammars:
        async with connect_async(settings, PROCESS) as redis, Subscriptions(redis) as subscriptions:
            proxies = Proxies(settings.trusted_proxies)
            keyring = Keyring(settings)
            pace = Pace(redis)
            served = Served(settings, redis)
            line = Line(redis, feeds, pace)
            attendance = Attendance(redis, feeds, settings.disconnect_grace)
            relay = Relay(
                redis,
                subscriptions,
                JobQueue(
                    redis,
                    result_ttl=settings.result_ttl,
                    rq_redis=rq_redis,
                    ask=subscriptions.ask,
                ),
                Limits(settings.max_queued, settings.max_in_flight),
                feeds=feeds,
                attendance=attendance,
                pace=pace,
                metrics=metrics,
            )
            archive = Archive(settings, metrics)
            webhooks = webhooks_of(settings, redis, metrics)
            async with AsyncExitStack() as stack:
                stack.callback(archive.close)
                await stack.enter_async_context(keyring.opened())
                ticks = [
                    (attendance.renew_all, attendance.interval),
                    (line.look, LOOK_SECONDS),
                    (Rounds(redis, feeds).look, ROUND_SECONDS),
                    (Vigil(keyring, feeds).look, VIGIL_SECONDS),
                ]
                if webhooks is not None:
                    await stack.enter_async_context(webhooks)
                    ticks.append((webhooks.look, DELIVERY_SECONDS))
                for tick, seconds in ticks:
                    await stack.enter_async_context(repeating(tick, every=seconds))
                yield State(
                    settings=settings,
                    redis=redis,
                    metrics=metrics,
                    relay=relay,
                    streams=OpenStreams(settings.ping_seconds),
                    tokenizers=Tokenizers(redis),
                    proxies=proxies,
                    keyring=keyring,
                    limits=RateLimits(redis, settings.rate_limit),
                    logins=FailedLogins(redis),
                    archive=archive,
                    grammars=grammars,
                    served=served,
                    fleet=Fleet(settings, redis, served),
                    webhooks=webhooks,
                )
