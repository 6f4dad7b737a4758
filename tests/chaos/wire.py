"""One HTTP exchange over a socket that can be broken off at any byte, or not read.

By hand, because a library would hide where a response was cut.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SILENCE_SECONDS: Final = 40.0
"""Longer than two of the service's pings are apart; after this a connection is taken for dead."""
_CONNECT_SECONDS: Final = 5.0
_CHUNK: Final = 4096


class LostError(Exception):
    """The connection ended before the response did, whoever ended it."""


@dataclass(frozen=True)
class SseEvent:
    name: str
    data: str
    id: str
    """"" if the event has none of its own."""


class SseParser:
    """Bytes to events, as the WHATWG has it; what a cut leaves unfinished is dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[SseEvent]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in (each.removesuffix(b"\r") for each in lines):
            if not line:
                if "data" in self._fields:
                    yield SseEvent(
                        self._fields.get("event", "message"),
                        self._fields["data"],
                        self._fields.get("id", ""),
                    )
                self._fields = {}
            else:
                name, _, value = line.decode().partition(":")
                self._fields[name] = value.removeprefix(" ")


class ChunkedDecoder:
    """Takes the transfer coding off. `ended` once the last chunk was seen."""

    def __init__(self) -> None:
        self.ended = False
        self._raw = b""
        self._left = 0
        """Bytes of the current chunk, with its line end, that are still to come."""

    def feed(self, data: bytes) -> bytes:
        self._raw += data
        body = b""
        while self._raw and not self.ended:
            if self._left > 2:
                piece = self._raw[: self._left - 2]
                body += piece
                self._raw = self._raw[len(piece) :]
                self._left -= len(piece)
            elif self._left:
                skipped = min(self._left, len(self._raw))
                self._raw = self._raw[skipped:]
                self._left -= skipped
            else:
                line, end, rest = self._raw.partition(b"\r\n")
                if not end:
                    break
                size = int(line.partition(b";")[0], 16)
                self._raw = rest
                self._left = size + 2
                self.ended = size == 0
        return body


@dataclass
class Sabotage:
    """What is done to a connection from the client's end, now or later."""

    bytes_left: int | None = None
    """It is dropped when so many more bytes were received."""
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing is read while this is not set."""

    def __post_init__(self) -> None:
        self.reading.set()


class Exchange:
    """A request sent and its response as it comes. Close it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sabotage: Sabotage
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._sabotage = sabotage
        self._body = b""

    @classmethod
    async def open(
        cls,
        address: tuple[str, int],
        sabotage: Sabotage,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
    ) -> "Exchange":
        """Send a request and read the response's head.

        Raises:
            LostError: there was nobody, or no whole head.
        """
        content = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {address[0]}:{address[1]}",
            "Connection: close",
            f"Content-Length: {len(content)}",
            "Content-Type: application/json",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(sock=await _socket(address))
        except (OSError, TimeoutError) as error:
            raise LostError(f"connecting: {error}") from error
        exchange = cls(reader, writer, sabotage)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + content)
            await exchange._read_head()
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def events(self) -> AsyncIterator[SseEvent]:
        """Up to the response's orderly end.

        Raises:
            LostError: it broke off.
        """
        parser, decoder = SseParser(), ChunkedDecoder()
        data, self._body = self._body, b""
        while True:
            for event in parser.feed(decoder.feed(data)):
                yield event
            if decoder.ended:
                return
            data = await self._read()

    async def problem(self) -> str:
        """The body of a refusal, as far as it comes."""
        data = self._body
        try:
            while len(data) < int(self.headers.get("content-length", "0")):
                data += await self._read()
        except LostError:
            pass
        return data.decode(errors="replace")

    def close(self) -> None:
        self._writer.transport.abort()

    async def _read_head(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self._read()
        head, _, self._body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    async def _read(self) -> bytes:
        await self._sabotage.reading.wait()
        if self._sabotage.bytes_left == 0:
            self._sabotage.bytes_left = None
            raise LostError("dropped by the client")
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                data = await self._reader.read(_CHUNK)
        except TimeoutError:
            raise LostError(f"silent for {SILENCE_SECONDS} s") from None
        except OSError as error:
            raise LostError(str(error)) from error
        if not data:
            raise LostError("closed by the other side")
        left = self._sabotage.bytes_left
        if left is not None:
            data = data[:left]
            self._sabotage.bytes_left = left - len(data)
        return data


async def _socket(address: tuple[str, int]) -> socket.socket:
    """Connected, with the smallest buffer the system has: a reader that stops is felt."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection
