"""One job's events, each once and in order, whatever pub/sub does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

from api.errors import StoppingError
from api.inbox import Inbox
from shared.errors import JobNotFoundError, RedisUnavailableError
from shared.events import AnyEvent, is_terminal
from shared.redis import CONNECTION_ERRORS

SILENCE_SECONDS: Final = 1.0
"""After this long without a message the log is asked: the message may have been lost."""
PATIENCE_SECONDS: Final = 30.0
"""How long a stream outlives Redis; a supervised server is back sooner."""

ReadLog: TypeAlias = Callable[[int], Awaitable[list[AnyEvent] | None]]
"""Events with a number above the given one; None if the job has no log."""


class Feed:
    """Follows a job by sequence number.

    A message is taken if it has the next number, dropped if its number has been seen, and
    otherwise, as after a gap or a silence, the log is read from the last number on. So a
    message that was lost, repeated or overtaken changes nothing but the time it takes.
    """

    def __init__(
        self,
        read_log: ReadLog,
        inbox: Inbox,
        *,
        after: int,
        stopping: Callable[[], bool] = lambda: False,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """`after` is the last number the client has; 0 for none."""
        self._read_log = read_log
        self._inbox = inbox
        self._last = after
        self._stopping = stopping
        self._silence = silence
        self._failing_since: float | None = None

    async def __aiter__(self) -> AsyncIterator[AnyEvent]:
        """Ends behind the terminal event.

        Raises:
            JobNotFoundError: the log has expired.
            RedisUnavailableError: the log could not be read for half a minute.
            StoppingError: this process is stopping.
        """
        events = await self._missed()
        while True:
            for event in events:
                self._last = event.seq
                yield event
                if is_terminal(event):
                    return
            events = await self._next()

    async def _next(self) -> list[AnyEvent]:
        if self._stopping():
            raise StoppingError
        message = await self._inbox.get(self._silence)
        if message is None or message.seq > self._last + 1:
            return await self._missed()
        return [message] if message.seq == self._last + 1 else []

    async def _missed(self) -> list[AnyEvent]:
        now = asyncio.get_running_loop().time()
        try:
            events = await self._read_log(self._last)
        except CONNECTION_ERRORS as error:
            self._failing_since = self._failing_since or now
            if now - self._failing_since > PATIENCE_SECONDS:
                raise RedisUnavailableError from error
            return []
        if events is None:
            raise JobNotFoundError
        self._failing_since = None
        return events
