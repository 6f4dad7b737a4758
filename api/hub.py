"""One pub/sub connection for the whole process, fanned out to its streams.

A connection a stream would cost Redis one for every waiting client. The connection is driven
by hand rather than through redis-py's PubSub: that one reconnects and resubscribes without a
word, and a stream has to know that it missed something. What comes is heard by `api.ear`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ReadOnlyError, RedisError

from api.ear import Ear, Word
from api.inbox import Inbox
from api.repeating import end
from shared import events, names
from shared.errors import DecodeError, RedisUnavailableError
from shared.logging import get_logger
from shared.redis import CONNECT_TIMEOUT, CONNECTION_ERRORS

ACKNOWLEDGE_TIMEOUT: Final = 3.0
"""Seconds that a new stream waits for its subscription."""
ANSWER_TIMEOUT: Final = 1.5
"""Seconds after which a connection that was asked and says nothing is given up, early enough to ask
by another one."""
PING_SECONDS: Final = 5.0
"""A connection that is silent for twice this long is dead."""
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses before reconnecting; the last one repeats."""

log = get_logger()


class _Channel:
    __slots__ = ("_interrupted", "_waiting", "acknowledged", "inboxes")

    def __init__(self) -> None:
        self.inboxes: set[Inbox] = set()
        self.acknowledged = False
        """What comes before is of an earlier subscription, and perhaps not all there was."""
        self._waiting: list[asyncio.Future[None]] = []
        self._interrupted = False

    async def acknowledgement(self) -> None:
        if not self.acknowledged:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def acknowledge(self) -> None:
        if self._interrupted:
            self.mark_gap()
        self._interrupted = False
        self.acknowledged = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def interrupt(self) -> None:
        self._interrupted = self.acknowledged or self._interrupted
        self.acknowledged = False

    def mark_gap(self) -> None:
        for inbox in self.inboxes:
            inbox.mark_gap()


class Subscriptions:
    """Hands each message to the inboxes of its job. An async context manager."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channels: dict[bytes, _Channel] = {}
        self._ear: Ear | None = None
        self._owed: Counter[bytes] = Counter()
        """Subscriptions that the server has yet to acknowledge, by channel."""
        self._failures = 0
        self._suspect = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep(), name="subscriptions")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await end(self._task)

    def open(self, job_id: str) -> Inbox:
        """An inbox that gets every message published once `acknowledged` has returned.

        Until we no longer hear, and perhaps some from just before. Whoever has got it closes it.
        """
        name = names.channel(job_id).encode()
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._subscribe(name)
        inbox = Inbox()
        channel.inboxes.add(inbox)
        return inbox

    async def acknowledged(self, job_id: str) -> None:
        """The server has heard of what was opened.

        Raises:
            RedisUnavailableError: not in time.
        """
        try:
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT):
                await self._channels[names.channel(job_id).encode()].acknowledgement()
        except TimeoutError:
            self._suspect.set()
            raise RedisUnavailableError from None

    def close(self, job_id: str, inbox: Inbox) -> None:
        """Nobody reads there any more."""
        name = names.channel(job_id).encode()
        channel = self._channels[name]
        inbox.close()
        channel.inboxes.discard(inbox)
        if not channel.inboxes:
            del self._channels[name]
            if self._ear is not None:
                self._ear.say("UNSUBSCRIBE", name)

    async def ask(self, *command: Word) -> Any:
        """A command's reply, by the connection that hears what comes of it, while there is one.

        What was opened just now goes with it in one message, and what it publishes comes with its
        reply. As with redis-py, one whose reply was lost is sent again.

        Raises:
            RedisError: the server refused, or can't be reached.
        """
        if self._ear is not None and self._ear.tells_apart:
            loop = asyncio.get_running_loop()
            watch = loop.call_later(ANSWER_TIMEOUT, self._doubt, self._ear, loop.time())
            try:
                return await self._ear.ask(*command)
            except ReadOnlyError:
                self._suspect.set()  # it is the primary no more
            except CONNECTION_ERRORS:
                pass
            finally:
                watch.cancel()
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's

    def _doubt(self, ear: Ear, since: float) -> None:
        """It was asked something then."""
        if ear is self._ear and ear.heard_at < since:
            self._suspect.set()

    def wake(self) -> None:
        """Have every stream look up from its inbox now."""
        for channel in self._channels.values():
            channel.mark_gap()

    async def _keep(self) -> None:
        """Keep a connection, and begin anew where one that seems to live serves nobody.

        A reader or a writer that a cancellation missed or hit alone would otherwise hold its
        group open, and every new stream would be refused for as long as the process lives.
        """
        while True:
            self._suspect.clear()
            run = asyncio.create_task(self._run(), name="subscriptions.run")
            suspected = asyncio.create_task(self._suspect.wait())
            try:
                await asyncio.wait((run, suspected), return_when=asyncio.FIRST_COMPLETED)
                if not self._failures:  # else it is known that there is none
                    log.warning("pub/sub connection serves nobody; making another")
            finally:
                await end(suspected)
                await end(run)

    async def _run(self) -> None:
        while True:
            try:
                async with self._connection() as connection, asyncio.TaskGroup() as tasks:
                    log.info("pub/sub connection made")
                    self._failures = 0
                    ear = self._ear = Ear(connection, self._take)
                    self._subscribe(*self._channels)
                    tasks.create_task(_ping(ear), name="subscriptions.ping")
                    tasks.create_task(ear.listen(2 * PING_SECONDS), name="subscriptions.read")
            except* (*CONNECTION_ERRORS, TimeoutError) as group:
                if not self._failures:  # an outage is told once
                    log.warning("pub/sub connection lost", error=str(group.exceptions[0]))
            except* Exception:
                log.exception("pub/sub failed")
            finally:
                if self._ear is not None:
                    self._ear.leave()
                    self._ear = None
                self._owed.clear()
                for channel in self._channels.values():
                    channel.interrupt()
            await asyncio.sleep(RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)])
            self._failures += 1

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AbstractConnection]:
        connection: AbstractConnection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's, untyped
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]  # as above
            yield connection
        finally:
            with suppress(*CONNECTION_ERRORS):
                await connection.disconnect(nowait=True)

    def _subscribe(self, *channels: bytes) -> None:
        """Now, or as soon as there is a connection."""
        if self._ear is not None and channels:
            self._owed.update(channels)
            self._ear.say("SUBSCRIBE", *channels, replies=len(channels))

    def _take(self, reply: Any) -> None:
        if isinstance(reply, RedisError):
            raise reply
        if isinstance(reply, list) and len(reply) == 3:  # else the answer to a PING
            self._dispatch(*reply)

    def _dispatch(self, kind: bytes, name: bytes, payload: bytes) -> None:
        if kind == b"subscribe":
            self._acknowledge(name)
        elif kind == b"message":
            channel = self._channels.get(name)
            if channel is None or not channel.acknowledged:
                return
            try:
                event = events.decode(payload)
            except DecodeError:
                channel.mark_gap()  # whoever reads the log meets the error and reports it
                return
            for inbox in channel.inboxes:
                inbox.put(event)

    def _acknowledge(self, name: bytes) -> None:
        self._owed[name] -= 1
        if self._owed[name]:
            return  # closed and opened again meanwhile: only the last one stands
        del self._owed[name]
        if channel := self._channels.get(name):
            channel.acknowledge()


async def _ping(ear: Ear) -> None:
    while True:
        await asyncio.sleep(PING_SECONDS)
        ear.say("PING")
