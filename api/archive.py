"""The interactions database as the API asks it: on threads, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Final, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from api.metrics import ApiMetrics
from shared.errors import StoreError
from shared.logging import get_logger
from shared.settings import Settings
from shared.store import Store

THREADS: Final = 4
"""Questions that are asked at once; SQLite answers hardly more on any machine."""
MAX_WAITING: Final = 64
ANSWER_SECONDS: Final = 12.0
"""A little longer than either database lets a question take."""

T = TypeVar("T")


class Archive:
    """Opens the database when it is first asked for something, and again whenever that failed.

    What is not about history goes on without it.
    """

    def __init__(self, settings: Settings, metrics: ApiMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._limiter = CapacityLimiter(THREADS)
        self._lock = Lock()
        self._store: Store | None = None

    async def ask(self, question: Callable[[Store], T]) -> T:
        """What `question` returns, which is called on another thread.

        Raises:
            StoreError: the database can't be used now, or too many ask. The log has the reason,
                which may name hosts and files.
        """
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise StoreError("Too many requests want the interactions database.")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await anyio.to_thread.run_sync(
                    partial(self._ask, question), limiter=self._limiter, abandon_on_cancel=True
                )
        except (StoreError, TimeoutError) as error:
            self._metrics.store_failed()
            get_logger().error("the store is away", reason=str(error) or "no answer in time")
            raise StoreError("The interactions database does not answer.") from None

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()

    def _ask(self, question: Callable[[Store], T]) -> T:
        with self._lock:
            if self._store is None:
                self._store = Store.open(self._settings)
        return question(self._store)
