"""Webhooks that are to be delivered: which are due, and who is at it."""

from __future__ import annotations

from typing import Final, NamedTuple

from redis.asyncio import Redis

from shared import names, scripts

KEPT_SECONDS: Final = 26 * 3600
"""How long the log of a job with a webhook is kept at least: it is what is delivered."""
LEASE_SECONDS: Final = 60
"""How long whoever took a webhook has to itself; then it is due again."""


class Delivery(NamedTuple):
    """One attempt at one webhook."""

    job_id: str
    tries: int
    """With this one."""
    lease: str


class Deliveries:
    """Shared by all API processes. A job's end puts its webhook in (`shared/lua/finish.lua`)."""

    def __init__(self, redis: Redis) -> None:
        self._take = scripts.load_async(redis, "take_deliveries")
        self._settle = scripts.load_async(redis, "settle_delivery")

    async def take(self, count: int) -> list[Delivery]:
        """What is due, at most `count`."""
        taken = await self._take(
            keys=[names.WEBHOOKS, names.WEBHOOK_TRIES], args=[count, LEASE_SECONDS]
        )
        found = zip(taken[::3], taken[1::3], taken[2::3], strict=True)
        return [Delivery(job.decode(), tries, lease.decode()) for job, tries, lease in found]

    async def close(self, delivery: Delivery, log_ttl: int | None) -> None:
        """It is delivered or given up; its job's log is wanted for `log_ttl` seconds more."""
        await self._end(delivery, "", "" if log_ttl is None else log_ttl)

    async def postpone(self, delivery: Delivery, seconds: float) -> None:
        await self._end(delivery, seconds, "")

    async def _end(self, delivery: Delivery, again: float | str, log_ttl: int | str) -> None:
        await self._settle(
            keys=[names.WEBHOOKS, names.WEBHOOK_TRIES, names.events(delivery.job_id)],
            args=[delivery.job_id, delivery.lease, again, log_ttl],
        )
