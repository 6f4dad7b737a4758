"""Tells the workers which jobs somebody follows: the others end when their grace is over."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from redis.asyncio import Redis

from api.feed import Feed
from shared import names, scripts

_SHORTEST: Final = 0.5
_LONGEST: Final = 5.0
_CHUNK: Final = 500


class Attendance:
    """Renews the leases of all jobs that this process has an open feed of.

    A lease outlasts the grace time by one interval, so that a job whose client left the moment
    after a renewal still has its grace. Only jobs that are in the set are renewed: one that has
    ended must not come back, and one in the background was never there.
    """

    def __init__(self, redis: Redis, feeds: Collection[Feed], grace: float) -> None:
        """`feeds` are those open now; `grace` in seconds."""
        self._redis = redis
        self._feeds = feeds
        self._script = scripts.source("attend")
        self.interval = min(max(grace / 3, _SHORTEST), _LONGEST)
        self.lease = grace + self.interval
        """Seconds for which a job that is followed now is taken to be."""

    async def renew(self, job_ids: Iterable[str]) -> None:
        """Set the leases of those jobs that have one."""
        followed = list(job_ids)
        pipe = self._redis.pipeline(transaction=False)
        for start in range(0, len(followed), _CHUNK):
            chunk = followed[start : start + _CHUNK]
            pipe.eval(self._script, 1, names.ATTENDED, self.lease, *chunk)
        await pipe.execute()

    async def renew_all(self) -> None:
        await self.renew({feed.job_id for feed in self._feeds})
