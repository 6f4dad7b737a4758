"""A connection to Redis that is listened to, and told what to listen for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hiredis import Reader, pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError  # noqa: A004 (redis-py's own, as its callers expect)


class Ear(asyncio.Protocol):
    """Takes a connection over from redis-py.

    Replies are parsed and handed on in the event loop's own call: a task that reads would be woken
    for each message, and begin and end a time limit. Commands are sent in the caller's.
    """

    def __init__(self, connection: AbstractConnection, take: Callable[[Any], None]) -> None:
        """`connection` has said all that was asked of it. `take` gets each reply from now on."""
        self._take = take
        self._parser = Reader()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport = connection._writer.transport  # type: ignore[union-attr,assignment]  # noqa: SLF001 (it has no other way to it)
        self._transport.set_protocol(self)

    def say(self, *command: str | bytes) -> None:
        """Send a command. Where that fails, `listen` does."""
        if not self._over.done():
            self._transport.write(pack_command(command))  # type: ignore[arg-type]  # its stub means any tuple

    async def listen(self, silence: float) -> None:
        """Returns never.

        Raises:
            ConnectionError: the server has closed it.
            TimeoutError: it was silent for so many seconds.
            Exception: what `take` has raised.
        """
        while (patience := self._heard_at + silence - self._loop.time()) > 0:
            done, _ = await asyncio.wait([self._over], timeout=patience)
            if done:
                self._over.result()
        raise TimeoutError

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                self._take(reply)
        except Exception as error:  # noqa: BLE001 (whoever listens raises it)
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(str(exc or "closed by the server")))

    def _end(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # looked at: when we have closed it, nobody listens any more
