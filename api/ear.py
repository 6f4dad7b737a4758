"""A connection to Redis that is listened to, and told what to listen for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from hiredis import PushNotification, Reader, pack_command
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError  # noqa: A004 (redis-py's own, as its callers expect)

Word: TypeAlias = str | bytes | int | float

_ANSWERS: Final = (b"subscribe", b"unsubscribe", b"pong")
"""What is pushed because it was asked for; other pushes are news."""


class Ear(asyncio.Protocol):
    """Takes a connection over from redis-py.

    Replies are parsed and handed on in the event loop's own call: a task that reads would be woken
    for each message, and begin and end a time limit. Commands are sent in the caller's.
    """

    def __init__(self, connection: AbstractConnection, take: Callable[[Any], None]) -> None:
        """`connection` has said all that was asked of it.

        `take` gets what is pushed and what nobody has asked for; errors, too, as exceptions.
        """
        self._take = take
        self._parser = Reader(replyError=BaseParser.parse_error)
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._due: deque[asyncio.Future[Any] | None] = deque()
        """Of each reply that is to come, who waits for it. The server answers in order."""
        self.tells_apart = str(connection.protocol) == "3"
        """What is pushed from what is replied (RESP3). Else there is nothing but pushes."""
        self._transport: asyncio.Transport = connection._writer.transport  # type: ignore[union-attr,assignment]  # noqa: SLF001 (it has no other way to it)
        self._transport.set_protocol(self)

    def say(self, *command: Word, replies: int = 1) -> None:
        """Send a command to which so many replies come. Where that fails, `listen` does."""
        self._send(command, [None] * replies)

    async def ask(self, *command: Word) -> Any:
        """A command's reply, if `tells_apart`.

        Raises:
            RedisError: the server refused; or the connection is lost, and it is not known whether
                it was carried out.
        """
        reply = self._loop.create_future()
        self._send(command, [reply])
        return await reply

    def _send(self, command: tuple[Word, ...], due: Iterable[asyncio.Future[Any] | None]) -> None:
        packed = pack_command(command)  # type: ignore[arg-type]  # its stub means any tuple
        self._due.extend(due)
        if self._over.done():
            self._give_up()
        else:
            self._transport.write(packed)

    async def listen(self, silence: float) -> None:
        """Returns never.

        Raises:
            ConnectionError: the server has closed it.
            TimeoutError: it was silent for so many seconds.
            Exception: what `take` has raised.
        """
        while (patience := self.heard_at + silence - self._loop.time()) > 0:
            done, _ = await asyncio.wait([self._over], timeout=patience)
            if done:
                self._over.result()
        raise TimeoutError

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                self._hear(reply)
        except Exception as error:  # noqa: BLE001 (whoever listens raises it)
            self._end(error)

    def _hear(self, reply: Any) -> None:
        if isinstance(reply, PushNotification if self.tells_apart else list):
            if reply[0] in _ANSWERS:
                self._due.popleft()
            self._take(reply)
            return
        waiting = self._due.popleft()
        if waiting is None:
            self._take(reply)
        elif not waiting.done():  # else nobody waits any more
            if isinstance(reply, RedisError):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

    def leave(self) -> None:
        """Nobody listens any more: whoever waits for a reply gets none."""
        self._end(ConnectionError("the connection is lost"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(str(exc or "closed by the server")))

    def _end(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # looked at: when we have closed it, nobody listens any more
        self._give_up()

    def _give_up(self) -> None:
        while self._due:
            waiting = self._due.popleft()
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionError("the connection is lost"))
