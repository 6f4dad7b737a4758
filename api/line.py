"""Tells streams whose jobs wait how the queue in front of them gets shorter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from redis.asyncio import Redis

from api.feed import Feed
from api.pace import Pace
from shared import names
from shared.events import Queued

LOOK_SECONDS: Final = 1.0
_CHUNK: Final = 200
"""Positions asked for at once; between chunks the process serves its streams."""


class Line:
    """Looks for all waiting streams of the process together.

    A stream is sent its position as an un-numbered `queued` event when it has changed. One whose
    job waits no more is sent to the log, where the reason stands.
    """

    def __init__(self, redis: Redis, feeds: Collection[Feed], pace: Pace) -> None:
        """`feeds` are those open now."""
        self._redis = redis
        self._feeds = feeds
        self._pace = pace
        self._told: dict[Feed, int] = {}

    async def look(self) -> None:
        waiting = [(feed, queued) for feed in self._feeds if (queued := feed.waiting)]
        self._told = {feed: self._told.get(feed, queued.position) for feed, queued in waiting}
        for start in range(0, len(waiting), _CHUNK):
            chunk = waiting[start : start + _CHUNK]
            pipe = self._redis.pipeline(transaction=False)
            for _, queued in chunk:
                pipe.zrank(names.order(queued.model), queued.id)
            for (feed, queued), position in zip(chunk, await pipe.execute(), strict=True):
                await self._tell(feed, queued, position)

    async def _tell(self, feed: Feed, queued: Queued, position: int | None) -> None:
        if position is None:
            feed.inbox.mark_gap()
        elif position != self._told[feed]:
            self._told[feed] = position
            seconds = await self._pace.seconds_per_job(queued.model)
            estimate = None if seconds is None else position * seconds
            feed.inbox.put(
                Queued(
                    seq=0, id=queued.id, model=queued.model, position=position, estimate=estimate
                )
            )
