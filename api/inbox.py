"""Where one stream's live messages wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from shared.events import AnyEvent


class Inbox:
    """A bounded queue that forgets rather than grows: the log has what it lost."""

    CAPACITY: Final = 256
    """Messages. A client this far behind is served from the log."""

    def __init__(self) -> None:
        self._messages: deque[AnyEvent] = deque()
        self._lost = False
        self._filled = asyncio.Event()

    def put(self, message: AnyEvent) -> None:
        if len(self._messages) >= self.CAPACITY:
            self.mark_gap()
        else:
            self._messages.append(message)
            self._filled.set()

    def mark_gap(self) -> None:
        """Messages were lost: what waits here is no longer worth keeping either."""
        self._messages.clear()
        self._lost = True
        self._filled.set()

    async def get(self, timeout: float) -> AnyEvent | None:  # noqa: ASYNC109 (silence is an answer here, not a failure)
        """The next message. None: a gap, or `timeout` seconds of silence; so read the log."""
        try:
            async with asyncio.timeout(timeout):
                await self._filled.wait()
        except TimeoutError:
            return None
        lost, self._lost = self._lost, False
        message = None if lost else self._messages.popleft()
        if not self._messages:
            self._filled.clear()
        return message
