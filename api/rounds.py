"""Finds what pub/sub has lost: looks into the logs of streams that hear nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from redis.asyncio import Redis

from api.feed import Feed
from shared import log

ROUND_SECONDS: Final = 1.0
"""A message that was lost behind the last of its job is missed for twice this long at most."""
_CHUNK: Final = 200
"""Logs looked at together; between chunks the process serves its streams."""


class Rounds:
    """Looks for all streams of the process together: each on its own would cost ten times as much.

    Those whose jobs wait are looked after by `api.line`.
    """

    def __init__(self, redis: Redis, feeds: Collection[Feed]) -> None:
        """`feeds` are those open now."""
        self._redis = redis
        self._feeds = feeds
        self._heard: dict[Feed, int] = {}

    async def look(self) -> None:
        """Send streams to their logs that have heard nothing since the last round, but could."""
        running = [feed for feed in self._feeds if feed.live and not feed.waiting]
        silent = [feed for feed in running if self._heard.get(feed) == feed.last]
        self._heard = {feed: feed.last for feed in running}
        for start in range(0, len(silent), _CHUNK):
            chunk = silent[start : start + _CHUNK]
            numbers = await log.last_numbers(self._redis, [feed.job_id for feed in chunk])
            for feed, number in zip(chunk, numbers, strict=True):
                if number is None or number > feed.last:
                    feed.inbox.mark_gap()
