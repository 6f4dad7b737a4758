"""Deletes interactions that are older than they may become."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared import names
from shared.errors import StoreError
from shared.history import Filter
from shared.logging import get_logger
from shared.queue import FAILURE_TTL
from shared.settings import Settings
from shared.store import Store
from worker.metrics import WorkerMetrics
from worker.thread import SideThread

INTERVAL: Final = 60.0
"""Seconds between two rounds."""
_PAUSE: Final = 0.2
"""Seconds between two batches: rows that are to be written come first."""
_SLACK: Final = timedelta(days=1)


class Retention(SideThread):
    """One worker at a time does it for all; were there two, neither would do harm."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        store: Store,
        *,
        metrics: WorkerMetrics,
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("retention", on_crash)
        self._redis = redis
        self._store = store
        self._metrics = metrics
        self._days = settings.history_days
        # For as long as a job's log is there, somebody may write its row once more.
        self._mourning = timedelta(seconds=max(FAILURE_TTL, settings.result_ttl)) + _SLACK
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Without waiting: a batch that is not done is not begun."""
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                if self._redis.set(names.RETENTION, "", nx=True, px=int(INTERVAL * 900)):
                    self.round(datetime.now(UTC))
            except (RedisError, StoreError) as error:
                get_logger().warning("nothing retired", reason=str(error))
            self._stopped.wait(INTERVAL)

    def round(self, now: datetime) -> None:
        """Delete, a batch after the other, what is too old by now.

        Raises:
            StoreError: the database refused; the next round goes on.
        """
        self._store.forget_deleted(now - self._mourning)
        if not self._days:
            return
        wanted = Filter(until=now - timedelta(days=self._days))
        retired = 0
        while not self._stopped.is_set() and (found := self._store.delete_some(wanted)):
            retired += found
            self._metrics.retired(found)
            self._stopped.wait(_PAUSE)
        if retired:
            self._store.scrub()
            get_logger().info("interactions retired", rows=retired)
