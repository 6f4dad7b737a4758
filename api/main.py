"""The API as a process."""

from __future__ import annotations

import errno
import math
import signal
import socket
from types import FrameType
from typing import Final

import uvicorn

from api.app import create_app
from api.state import PROCESS, State
from shared.errors import StackError
from shared.logging import configure, get_logger
from shared.redis import connect, require
from shared.settings import PREFIX, Settings

_CLOSING_SECONDS: Final = 1.0
"""Part of the grace time kept for ending what still runs."""

log = get_logger()


class Server(uvicorn.Server):
    """Tells the streams when to end, instead of cancelling them."""

    def __init__(self, settings: Settings) -> None:
        self._grace = settings.shutdown_grace
        super().__init__(
            uvicorn.Config(
                create_app(settings),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # `api.proxies` decides whom to believe
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=max(1, math.ceil(self._grace)),
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state: State = self.lifespan.state["app"]
        state.relay.stop(max(0.0, self._grace - _CLOSING_SECONDS))
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Needs the main thread.

    Raises:
        RedisUnavailableError: Redis does not answer.
        StackError: the address can't be listened on.
    """
    configure(settings, PROCESS)
    with connect(settings, PROCESS) as redis:
        require(redis, settings)
    with listen(settings) as listener:
        server = Server(settings)

        def stop(_: int, __: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn has its own handlers while it serves and then sends itself the signal again,
        # to die of it. Having been told to stop is no failure: exit with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        log.info("listening", url=f"http://{settings.host}:{settings.port}")
        server.run(sockets=[listener])


def listen(settings: Settings) -> socket.socket:
    """Bind before anything else is built, so that a taken port is told in one line.

    Raises:
        StackError: the port is taken, or the address is not one of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StackError(
            f"{settings.host} is no address to listen on. Correct {PREFIX}HOST."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StackError(
                f"Port {settings.port} on {settings.host} is taken. Free it, or set {PREFIX}PORT."
            ) from error
        raise StackError(
            f"Port {settings.port} on {settings.host} can't be listened on "
            f"({error.strerror}). Set {PREFIX}HOST or {PREFIX}PORT."
        ) from error
    return listener
