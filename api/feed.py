"""One job's events, each once and in order, whatever pub/sub does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

from redis.exceptions import RedisError

from api.errors import InvalidKeyError, StoppingError
from api.inbox import Inbox
from shared.errors import RedisUnavailableError
from shared.events import AnyEvent, Queued, Token, is_terminal

SILENCE_SECONDS: Final = 10.0
"""After this long without a message the log is asked: the message may have been lost. `api.rounds`
and `api.line` look every second, for all streams together."""
_RETRY_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 300.0
"""How long a stream outlives Redis. Long enough for a restart that reads a large file or for a
failover. To lose its stream earlier would help no client: every other process is as cut off as
this one. Later, somebody has to mend something, and the client should hear of it."""
PAGE: Final = 256
"""Events read at once: what a stream holds in memory is bounded, however long its job's log."""

ReadLog: TypeAlias = Callable[[int], Awaitable[list[AnyEvent]]]
"""Events with a number above the given one, at most a `PAGE`. May raise `JobNotFoundError`,
`JobExpiredError`, `RedisUnavailableError` or redis-py's errors."""


class Feed:
    """Follows a job by sequence number.

    A message is taken if it has the next number, dropped if its number has been seen, and
    otherwise, as after a gap or a silence, the log is read from the last number on. So a
    message that was lost, repeated or overtaken changes nothing but the time it takes.
    """

    def __init__(
        self,
        job_id: str,
        read_log: ReadLog,
        inbox: Inbox,
        *,
        after: int,
        latest: AnyEvent | None = None,
        stopping: Callable[[], bool] = lambda: False,
        silence: float = SILENCE_SECONDS,
        key: str = "",
    ) -> None:
        """`after` is the last number the client has, 0 for none; `latest` its event, if known.

        `key` is the API key under which it was opened.
        """
        self.job_id = job_id
        self.key = key
        self.inbox = inbox
        self._read_log = read_log
        self.last = after
        """Number of the event that was the latest to be passed on."""
        self._latest = latest
        self._stopping = stopping
        self._silence = silence
        self._failing_since: float | None = None
        self.live = False
        """It has all that there was when it was opened, or has had."""
        self._look_at = 0.0
        self._ended = False

    def end(self) -> None:
        """Its key opens nothing any more."""
        self._ended = True
        self.inbox.mark_gap()  # have it look up

    def shorten(self, passed_on: Callable[[Token], bool]) -> None:
        """From now on `passed_on` is asked about a token that `batches` waits for.

        What it takes has been passed on, and `batches` goes on behind it.
        """

        def taken(message: AnyEvent) -> bool:
            if message.seq != self.last + 1 or not isinstance(message, Token):
                return False
            if not passed_on(message):
                return False
            self.last, self._latest = message.seq, message
            self._look_at = _now() + self._silence
            return True

        self.inbox.taken = taken

    @property
    def waiting(self) -> Queued | None:
        """The event that put the job into its queue, if nothing has followed it yet."""
        return self._latest if isinstance(self._latest, Queued) else None

    async def __aiter__(self) -> AsyncIterator[AnyEvent]:
        """One by one, as `batches` has them."""
        async for events in self.batches():
            for event in events:
                yield event

    async def batches(self) -> AsyncIterator[list[AnyEvent]]:
        """All that there is, then all that has come meanwhile, and so on; never empty.

        Ends behind a terminal event, if it is the last one: a job may be put back after it.
        Events numbered 0 are remarks that the log does not hold.

        Raises:
            JobNotFoundError: there is no such log any more.
            JobExpiredError: the log has expired.
            RedisUnavailableError: the log could not be read for minutes.
            StoppingError: this process is stopping.
            InvalidKeyError: the key has ended.
        """
        if self.inbox.begins_with(self.last + 1):  # nothing was missed
            events = await self._received(0)
        else:
            events = await self._missed()
        while True:
            if events:
                self._note(events)
                yield events
            if len(events) == PAGE:
                events = await self._missed()
                continue
            self.live = True
            if self._latest is not None and is_terminal(self._latest):
                return
            events = await self._next()

    async def _next(self) -> list[AnyEvent]:
        if self._stopping():
            raise StoppingError
        if self._ended:
            raise InvalidKeyError
        return await self._received(max(0.0, self._look_at - _now()))

    async def _received(self, seconds: float) -> list[AnyEvent]:
        messages = await self.inbox.get(seconds)
        if messages is None:
            return await self._missed()
        events: list[AnyEvent] = []
        last, latest = self.last, self._latest
        for message in messages:
            if message.seq == last + 1:
                last, latest = message.seq, message
                events.append(message)
            elif message.seq > last:
                return await self._missed()  # which has all that came before it too
            elif message.seq == 0 and isinstance(latest, Queued):
                events.append(message)
        if latest is not self._latest:
            self._look_at = _now() + self._silence
        return events

    def _note(self, events: list[AnyEvent]) -> None:
        for event in reversed(events):
            if event.seq:
                self.last, self._latest = event.seq, event
                return

    async def _missed(self) -> list[AnyEvent]:
        """What the log has more. Nothing, if it can't be read now; then soon again."""
        try:
            events = await self._read_log(self.last)
        except (RedisError, RedisUnavailableError) as error:
            self._failing_since = self._failing_since or _now()
            if _now() - self._failing_since > PATIENCE_SECONDS:
                raise RedisUnavailableError from error
            self._look_at = _now() + min(self._silence, _RETRY_SECONDS)
            return []
        self._failing_since = None
        self._look_at = _now() + self._silence
        return events


def _now() -> float:
    return asyncio.get_running_loop().time()
