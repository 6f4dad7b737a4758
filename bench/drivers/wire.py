"""Streams over raw sockets, with as little client as possible.

The client shares the machine with what it measures. While streams run it notes when which bytes
came; what they say is read after a stream's end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import uvloop

from bench.measure import Stream
from bench.workload import Ask

Received: TypeAlias = list[tuple[float, bytes]]
"""A response as it came: when, and what."""

_PATIENCE: Final = 300.0
"""Seconds after which an answer that has not ended has failed."""


def run(
    asks: Sequence[Ask],
    request: Callable[[Ask], tuple[str, Mapping[str, Any]]],
    read: Callable[[float, Received], Stream],
    *,
    concurrency: int | None = None,
    seconds: float | None = None,
) -> list[Stream]:
    """`Driver.run` for servers.

    Args:
        asks: The requests.
        request: The URL and the body that a request is posted as.
        read: Makes a stream of when it was sent and what came.
        concurrency: As in `Driver`.
        seconds: As in `Driver`.
    """

    async def together() -> list[Stream]:
        begin = time.perf_counter()
        waiting = iter(enumerate(asks))
        found: dict[int, Stream] = {}

        async def serve() -> None:
            for number, ask in waiting:
                now = time.perf_counter()
                started = max(now, begin + ask.at)
                if seconds is not None and started - begin >= seconds:
                    return
                url, body = request(ask)
                data = json.dumps(body).encode()
                await asyncio.sleep(started - time.perf_counter())
                found[number] = read(started, await post(url, data))

        await asyncio.gather(*(serve() for _ in range(min(len(asks), concurrency or len(asks)))))
        return [found[number] for number in sorted(found)]

    return uvloop.run(together())


async def post(url: str, data: bytes) -> Received:
    """Send a JSON body and take what comes, to the end or until patience ends."""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        "Connection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    connection = _Connection(head.encode() + data, loop.create_future())
    try:
        async with asyncio.timeout(_PATIENCE):
            transport, _ = await loop.create_connection(lambda: connection, host, port)
            try:
                await connection.over
            finally:
                transport.abort()
    except OSError:  # refused, reset, or out of patience: no end will be found
        pass
    return connection.received


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, over: asyncio.Future[None]) -> None:
        self.received: Received = []
        self.over = over
        self._request = request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what it gets
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.perf_counter(), data))
        if data.endswith(b"0\r\n\r\n"):  # the last chunk; some servers don't close behind it
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (its end is missing then)
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


def sse(received: Received) -> Iterator[tuple[float, str, str]]:
    """The server-sent events of a response: when its data came, its name ("" without), its data.

    Comments and other fields are skipped; data of several lines is not joined, as nobody sends
    any. Of a response that is no stream, nothing.
    """
    rest, name = b"", ""
    for arrival, payload in _payload(received):
        *lines, rest = (rest + payload).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            if field == b"event":
                name = value.strip().decode()
            elif field == b"data":
                yield arrival, name, value.strip().decode()
            elif not field and not value:
                name = ""


def _payload(received: Received) -> Iterator[tuple[float, bytes]]:
    """The body, without head and chunk sizes."""
    buffer, missing, headed, chunked = b"", 0, False, False
    for arrival, data in received:
        buffer += data
        if not headed:
            head, separator, buffer = buffer.partition(b"\r\n\r\n")
            if not separator:
                buffer = head
                continue
            headed, chunked = True, b"transfer-encoding: chunked" in head.lower()
        if not chunked:
            yield arrival, buffer
            buffer = b""
        while chunked and buffer:
            if missing:
                part, buffer = buffer[:missing], buffer[missing:]
                missing -= len(part)
                yield arrival, part
                continue
            size, separator, behind = buffer.removeprefix(b"\r\n").partition(b"\r\n")
            if not separator:
                break
            missing, buffer = int(size.partition(b";")[0], 16), behind
