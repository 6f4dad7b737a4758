"""Waiting for Redis to come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from redis.exceptions import RedisError

from shared.logging import get_logger
from shared.redis import cannot_now

_PAUSE_SECONDS: Final = 0.25

T = TypeVar("T")


class Patience:
    """Repeats what a missing Redis has prevented. For what is harmless to do twice."""

    def __init__(self, what: str) -> None:
        """`what` waits, as the log is to say it."""
        self._what = what
        self._ended = threading.Event()

    def end(self) -> None:
        """From now on the next failure is the last."""
        self._ended.set()

    def insist(self, action: Callable[[], T]) -> T:
        """Do it until it is done.

        Raises:
            RedisError: one that time does not mend, or any once `end` was called.
        """
        told = False
        while True:
            try:
                return action()
            except RedisError as error:
                if self._ended.is_set() or not cannot_now(error):
                    raise
                if not told:
                    get_logger().warning(f"{self._what} wait for Redis", reason=str(error))
                told = True
                self._ended.wait(_PAUSE_SECONDS)
