"""The means of `make chaos` do harm where they should: faults that do none prove nothing."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos.proxy import Proxy
from tests.chaos.wire import Exchange, LostError, Sabotage

EVENTS = b"".join(b'id: %d\nevent: token\ndata: {"text":"x"}\n\n' % n for n in range(1, 6))


@asynccontextmanager
async def echo_through_proxy(folder: Path) -> AsyncIterator[Proxy]:
    """A server behind the proxy that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    server = await asyncio.start_unix_server(echo, folder / "echo.sock")
    async with server, Proxy.running(folder / "echo.sock") as proxy:
        yield proxy


async def test_the_proxy_lets_through(short_tmp: Path) -> None:
    async with echo_through_proxy(short_tmp) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x" * 100_000)
        assert await reader.readexactly(100_000) == b"x" * 100_000
        writer.close()


async def test_the_proxy_cuts_in_the_middle_and_lets_nobody_in_for_a_while(
    short_tmp: Path,
) -> None:
    async with echo_through_proxy(short_tmp) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"first")
        assert await reader.readexactly(5) == b"first"
        cut = asyncio.create_task(proxy.cut(1.0, random.Random(1)))
        await asyncio.sleep(0)
        writer.write(b"x" * 100_000)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(100_000)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
        await cut
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        writer.close()


async def test_the_proxy_stalls_and_then_delivers_what_it_held(short_tmp: Path) -> None:
    async with echo_through_proxy(short_tmp) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        stall = asyncio.create_task(proxy.stall(0.3))
        await asyncio.sleep(0)
        began = time.monotonic()
        writer.write(b"late")
        assert await reader.readexactly(4) == b"late"
        assert time.monotonic() - began > 0.25
        await stall
        writer.close()


@asynccontextmanager
async def event_stream(content: bytes = EVENTS) -> AsyncIterator[tuple[str, int]]:
    """An HTTP server that answers with some events, in one chunk."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


async def read(address: tuple[str, int], sabotage: Sabotage) -> list[str]:
    """Ids of the events that came before the connection ended; "lost" if it broke off."""
    try:
        exchange = await Exchange.open(address, sabotage, "GET", "/", headers={})
    except LostError:
        return ["lost"]
    ids = [""]
    try:
        async for event in exchange.events():
            ids.append(event.id)  # noqa: PERF401 (what came before the loss counts)
    except LostError:
        ids.append("lost")
    finally:
        exchange.close()
    return ids


async def test_a_client_drops_at_every_byte() -> None:
    seen = set()
    async with event_stream() as address:
        whole = ["", "1", "2", "3", "4", "5"]
        assert await read(address, Sabotage()) == whole
        for count in range(300):
            ids = await read(address, Sabotage(bytes_left=count))
            assert ids[:-1] == whole[: len(ids) - 1]
            seen.add((len(ids), ids[-1]))
    # Before the head, behind each event, and not at all.
    assert seen == {(n, "lost") for n in range(1, 8)} | {(6, "5")}


async def test_a_client_that_does_not_read_gets_nothing_until_it_does() -> None:
    sabotage = Sabotage()
    sabotage.reading.clear()
    async with event_stream() as address:
        reading = asyncio.create_task(read(address, sabotage))
        done, _ = await asyncio.wait([reading], timeout=0.2)
        assert not done
        sabotage.reading.set()
        assert await reading == ["", "1", "2", "3", "4", "5"]
