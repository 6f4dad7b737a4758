"""Signs of life for clients and proxies that take silence for death."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Send


class Heartbeat:
    """Sends `ping` whenever nothing else was sent for so many seconds. A context manager.

    A timer costs a stream much less than a task that sleeps.
    """

    __slots__ = ("_heard_at", "_loop", "_ping", "_pinging", "_seconds", "_send", "_timer")

    def __init__(self, send: Send, ping: bytes, seconds: float) -> None:
        self._send = send
        self._ping = ping
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._pinging: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()

    def note(self) -> None:
        """Something is sent now."""
        self._heard_at = self._loop.time()

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._heard_at + self._seconds:
            self._heard_at = now
            if self._pinging is None or self._pinging.done():  # else the client reads nothing
                self._pinging = self._loop.create_task(self._beat())
        self._timer = self._loop.call_at(self._heard_at + self._seconds, self._look)

    async def _beat(self) -> None:
        await self._send({"type": "http.response.body", "body": self._ping, "more_body": True})
