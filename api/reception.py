"""How a request comes in: how much of it, how slowly, and on how many connections."""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.body import too_late
from api.context import ALWAYS, HEADER
from api.errors import HeaderTooLargeError, InvalidHttpError
from api.gate import SURPLUS, is_inside
from api.problems import ProblemResponse, problem_of
from api.state import State
from shared.logging import get_logger

MAX_HEAD: Final = 32 * 1024
"""Bytes of a request line with its headers; as much as nginx takes."""
_WRAPPING: Final = 8
"""Bytes that may come with each byte of a body. One sent in chunks of one byte has five."""
RESERVE: Final = 100
"""Connections beyond the limit that are still told so; others are cut."""
_SURPLUS_SECONDS: Final = 2.0
_MARGIN_SECONDS: Final = 1.0
"""What is told to a client whose body is late is told from inside; then the line is cut."""

_LINGER_SECONDS: Final = 1.0
"""For what is still on its way when a connection is given up."""

log = get_logger()


class Reception(HttpToolsProtocol):
    """uvicorn's, with limits.

    uvicorn waits without end for a client that has connected, or that sends a byte now and then,
    and keeps a head of any size in memory. Its limit on connections counts requests.
    """

    url = b""
    _running: RequestResponseCycle | None = None
    _expecting: asyncio.TimerHandle | None = None
    _is_surplus = False
    _is_open = False
    """A request has begun and is not here whole."""
    _in_head = False
    _is_deaf = False
    _wishes_upgrade = False
    _too_much = False
    _wrapping = 0
    _body = 0
    _taken = 0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared: State = app_state["app"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        settings = self._shared.settings
        # Whoever counts is let in also when nobody else is.
        if not is_inside(self.server, settings.metrics_port):
            surplus = len(self.connections) - settings.max_connections
            self._is_surplus = surplus > 0
            if surplus > RESERVE:
                transport.abort()
                return
        self._expect(_SURPLUS_SECONDS if self._is_surplus else settings.request_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the request that came in last, which may wait behind this one.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        goes_on = self._is_open
        self._taken = 0
        try:
            self._parse(data)
        except HttpParserError:
            error = HeaderTooLargeError() if self._too_much else InvalidHttpError()
            self._refuse(problem_of(error))
        # What the parser holds back of a long header, a trailer or a chunk's extension it tells
        # nobody. The piece in which a request begins is not counted: it may hold others too.
        if goes_on and self._is_open:
            self._wrapping += len(data) - self._taken
            if self._wrapping > MAX_HEAD + _WRAPPING * self._body:
                self._refuse(problem_of(HeaderTooLargeError()))

    def _parse(self, data: bytes) -> None:
        """Wishes for another protocol (WebSocket, HTTP/2) are ignored, which is allowed.

        The parser stops at them, and does not say what follows: a body, if there is one. So it
        gets the same request again, without the wish.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as stopped:
                self._wishes_upgrade = False
                data = self._without_wish() + data[stopped.args[0] :]
                self.parser = HttpRequestParser(self)
            else:
                return

    def _without_wish(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b" ".join((self.parser.get_method(), self.url, b"HTTP/" + version))]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    # Called by the parser, while data comes in.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_open = self._in_head = True
        self._wrapping = self._body = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer could pass for a header that a proxy would have dropped
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            self._too_much = True
            raise ValueError  # reaches `data_received` as the parser's error
        # To connect is no wish: it can't be ignored, and uvicorn finds no path in it.
        self._wishes_upgrade = (
            self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        )
        if self._wishes_upgrade:
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._taken += len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._wishes_upgrade:
            return
        super().on_message_complete()
        self._is_open = False
        if not self.cycle.response_complete:
            self._stop_expecting()

    # Called by uvicorn as requests come and go.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if self._is_surplus:
            cycle.scope["state"][SURPLUS] = True
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)
        if cycle.more_body:
            self._expect(self._shared.settings.request_seconds + _MARGIN_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_busy and not self.transport.is_closing():
            self._expect(self._shared.settings.request_seconds)

    @property
    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _expect(self, seconds: float) -> None:
        """Now it is the client's turn: a request, or the rest of one."""
        self._stop_expecting()
        self._expecting = self.loop.call_later(seconds, self._give_up)

    def _stop_expecting(self) -> None:
        if self._expecting is not None:
            self._expecting.cancel()
            self._expecting = None

    def _give_up(self) -> None:
        if self._in_head:
            self._refuse(too_late())
        else:
            self.transport.close()

    def _refuse(self, answer: ProblemResponse) -> None:
        """Answer what will not become a request, and hear no more from here.

        Where another answer is due or under way, it is the last, and there is room for none.
        """
        self._is_deaf = True
        self._is_open = self._in_head = False
        running = self._running
        if running is not None and self._is_busy and (self.pipeline or not running.more_body):
            self.cycle.keep_alive = False
            return
        if running is not None and self._is_busy:
            running.disconnected = True  # with the rest of its body
            running.message_event.set()
        if not self.transport.is_closing():
            self.transport.write(self._raw(answer))
            # To close with something unread would have the kernel drop what was just written.
            self.transport.write_eof()
            self._expect(_LINGER_SECONDS)

    def _raw(self, problem: ProblemResponse) -> bytes:
        request_id = secrets.token_hex(8)
        client = self.client[0] if self.client else None
        answer = problem.at(self.url.partition(b"?")[0].decode("latin-1"))
        log.warning("refused", code=problem.code, client=client, request_id=request_id)
        self._shared.metrics.answered("other", answer.status_code, problem.code)
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            *ALWAYS,
            (HEADER.lower().encode(), request_id.encode()),
            (b"connection", b"close"),
        ]
        status = HTTPStatus(answer.status_code)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
        lines += [name + b": " + value for name, value in headers]
        return b"\r\n".join([*lines, b"", bytes(answer.body)])
