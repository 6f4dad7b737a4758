"""The streamed responses that a process has under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

Cut: TypeAlias = Callable[[], None]


class OpenStreams:
    """Ends those that do not end when they are asked to, as their clients read nothing."""

    def __init__(self, ping_seconds: float) -> None:
        self.ping_seconds = ping_seconds
        """Longest silence of a stream of events."""
        self._cuts: set[Cut] = set()
        self._is_over = False

    def add(self, cut: Cut) -> None:
        """`cut` is called when the time comes, or at once if it has."""
        self._cuts.add(cut)
        if self._is_over:
            cut()

    def discard(self, cut: Cut) -> None:
        self._cuts.discard(cut)

    def end(self, seconds: float) -> None:
        """Cut those that are still there in so many seconds, and whatever begins later."""
        asyncio.get_running_loop().call_later(seconds, self._cut_all)

    def _cut_all(self) -> None:
        self._is_over = True
        for cut in list(self._cuts):
            cut()
