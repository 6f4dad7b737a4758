"""A TCP proxy in front of Valkey that cuts connections at any byte, or lets nothing through."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

_CUT_WITHIN_BYTES: Final = 4096
_CUT_WITHIN_SECONDS: Final = 0.5
_CHUNK: Final = 65536


class _Link:
    """A connection through the proxy."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.bytes_left: int | None = None
        """Cut when so many more have passed, in either direction."""
        self._writers = writers

    def take(self, data: bytes) -> bytes:
        """What still passes of `data`."""
        if self.bytes_left is not None:
            data = data[: self.bytes_left]
            self.bytes_left -= len(data)
        return data

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Proxy:
    """Listens on a port of 127.0.0.1 and connects each caller to a Unix socket."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._links: set[_Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, upstream: Path) -> AsyncIterator["Proxy"]:
        proxy = cls(upstream)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            while proxy._links:
                for link in list(proxy._links):
                    link.cut()
                await asyncio.sleep(0.01)

    async def cut(self, seconds: float, draw: random.Random) -> None:
        """Cut every connection, in the middle of what passes; let none in for a while."""
        links = list(self._links)
        self._refuses = True
        try:
            for link in links:
                link.bytes_left = draw.randrange(_CUT_WITHIN_BYTES)
            await asyncio.sleep(_CUT_WITHIN_SECONDS)
            for link in links:
                link.cut()
            await asyncio.sleep(max(0.0, seconds - _CUT_WITHIN_SECONDS))
        finally:
            self._refuses = False

    async def stall(self, seconds: float) -> None:
        """Keep connections open, take new ones, and let nothing through; then let go of it."""
        self._flows.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, far_writer)
        if self._refuses:
            link.cut()
            return
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, link)),
            asyncio.create_task(self._pump(far_reader, writer, link)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.cut()
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                writer.write(link.take(data))
                await writer.drain()
                if link.bytes_left == 0:
                    return
