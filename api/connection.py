"""A client's connection, which has to take what it asked for."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.reception import Reception
from api.shortcut import Make, Written, offer
from shared.events import Token
from shared.logging import get_logger

PATIENCE_SECONDS: Final = 30.0
"""A client that takes nothing for this long, and for twice as long at most, is dropped."""
_SEND_BUFFER: Final = 64 * 1024
"""Bytes that the kernel is asked to hold for a client: most of an answer, and little enough that
one who reads slowly is seen to read."""

log = get_logger()


class Connection(Reception):
    """Has an end for clients that do not read.

    uvicorn waits for such a client without end: before a write, and once more behind `close()`,
    until everything is sent. So a stream's own time limit would leave its connection and what is
    written already in memory. Here the transport keeps nothing that the kernel could take, a
    writer waits until all of it is taken, and a connection on which nothing moves is cut.
    """

    _stalled: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def pause_writing(self) -> None:
        """Called by the transport when the kernel takes no more."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Called by the transport when everything is sent."""
        super().resume_writing()
        self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        offer(cycle.scope["state"], self._write)
        super()._start_asgi_task(cycle, app)

    def _write(self, make: Make, token: Token) -> Written:
        """What `uvicorn` sends for a piece of a body, if it would not have to wait.

        Raises what `make` does.
        """
        cycle = self._running
        if (
            cycle is None
            or not cycle.chunked_encoding
            or not cycle.response_started
            or cycle.response_complete
            or cycle.disconnected
            or cycle.flow.write_paused
        ):
            return Written.NOT_NOW
        if not (piece := make(token)):
            return Written.NOTHING
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return Written.PIECE

    def _watch(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(PATIENCE_SECONDS, self._look)

    def _unwatch(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _look(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch()
        else:
            state = self._running.scope["state"] if self._running is not None else {}
            log.warning(
                "client does not read; connection dropped",
                client=self.client,
                request_id=state.get("request_id"),
            )
            self.transport.abort()
