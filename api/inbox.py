"""Where one stream's live messages wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared.events import AnyEvent


def _not_taken(_: AnyEvent) -> bool:
    return False


class Inbox:
    """A bounded queue that forgets rather than grows: the log has what it lost."""

    CAPACITY: Final = 256
    """Messages. A client this far behind is served from the log."""

    __slots__ = ("_due", "_lost", "_messages", "_timeout", "_timer", "_waiter", "taken")

    def __init__(self) -> None:
        self.taken: Callable[[AnyEvent], bool] = _not_taken
        """Is asked about a message that the reader waits for. Where it is taken, he waits on."""
        self._messages: list[AnyEvent] = []
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._timeout = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, message: AnyEvent) -> None:
        if self._waiter is not None and not self._waiter.done() and self.taken(message):
            self._due = self._waiter.get_loop().time() + self._timeout
        elif len(self._messages) >= self.CAPACITY:
            self.mark_gap()
        else:
            self._messages.append(message)
            self._wake()

    def mark_gap(self) -> None:
        """Messages were lost: what waits here is no longer worth keeping either."""
        self._messages.clear()
        self._lost = True
        self._wake()

    def begins_with(self, seq: int) -> bool:
        """Whether that is what the next reader gets first."""
        return bool(self._messages) and self._messages[0].seq == seq

    async def get(self, timeout: float) -> list[AnyEvent] | None:  # noqa: ASYNC109 (silence is an answer here, not a failure)
        """All that has come, at once. None: a gap, or `timeout` seconds of silence; read the log.

        One reader at a time.
        """
        if not self._messages and not self._lost:
            await self._something(timeout)
        if self._lost or not self._messages:
            self._lost = False
            return None
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        """Nobody reads here any more."""
        self.taken = _not_taken
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _something(self, timeout: float) -> None:  # noqa: ASYNC109 (as above)
        """The timer of an earlier wait is left to run: streams wait far more often than in vain."""
        loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._due = loop.time() + timeout
        if self._timer is None or self._timer.when() > self._due:
            self._stop_timer()
            self._timer = loop.call_at(self._due, self._look, loop)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if loop.time() >= self._due:
            self._wake()
        else:
            self._timer = loop.call_at(self._due, self._look, loop)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
