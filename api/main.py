"""The API as a process."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from types import FrameType
from typing import Final

import uvicorn

from api.app import create_app
from api.connection import Connection
from api.files import room_for
from api.signature import Signer
from api.state import PROCESS, State
from shared.errors import SettingsError, StoreAwayError
from shared.keybook import KeyBook, require_some
from shared.listen import listen
from shared.logging import configure, get_logger
from shared.redis import connect, require
from shared.settings import PREFIX, Settings

_CLOSING_SECONDS: Final = 1.0
"""Part of the grace time kept for ending what still runs."""
_FORCED_SECONDS: Final = 0.5
"""After streams were asked to end, those are cut that have not, as nobody reads them."""

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
                http=Connection,
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
        ends_in = max(0.0, self._grace - _CLOSING_SECONDS)
        state.relay.stop(ends_in)
        state.streams.end(ends_in + _FORCED_SECONDS)
        await super().shutdown(sockets)


def run(settings: Settings, *, patience: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT. Needs the main thread.

    `patience`: seconds to wait for Redis, where it is being started too.

    Raises:
        RedisUnavailableError: Redis does not answer.
        SettingsError: the ports do not go together, there is no key where there has to be, or the
            webhooks' secret is none.
        DataDirError: the data folder, in which the keys are, can't be used.
        StoreError: the database is newer than this program.
        StackError: an address can't be listened on.
    """
    configure(settings, PROCESS)
    with connect(settings, PROCESS) as redis:
        require(redis, settings, patience)
    _require_keys(settings)
    if settings.webhook_secret_file is not None:
        Signer.read(settings.webhook_secret_file)  # told here in a line
    room = room_for(settings.max_connections)
    with listening(settings) as listeners:
        server = Server(settings.model_copy(update={"max_connections": room}))

        def stop(_: int, __: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn has its own handlers while it serves and then sends itself the signal again,
        # to die of it. Having been told to stop is no failure: exit with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        log.info("listening", url=f"http://{settings.host}:{settings.port}")
        server.run(sockets=listeners)


def _require_keys(settings: Settings) -> None:
    if settings.database_url is None:
        settings.prepare_data_dir()
    with closing(KeyBook.open(settings, patient=True)) as book, suppress(StoreAwayError):
        require_some(settings, book)  # else keys are required, and nobody is let in


@contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Where clients come in, and where the metrics are read if that is elsewhere.

    Raises:
        SettingsError: both are the same port.
        StackError: an address can't be listened on.
    """
    if settings.metrics_port == settings.port:  # on two addresses it could be done, but not told
        raise SettingsError(f"{PREFIX}METRICS_PORT and {PREFIX}PORT must differ.")
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(settings.host, settings.port))]
        if settings.metrics_port:
            inside = listen(settings.metrics_host, settings.metrics_port, "METRICS_")
            listeners.append(stack.enter_context(inside))
        yield listeners
