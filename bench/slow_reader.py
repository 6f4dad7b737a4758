"""`python -m bench.slow_reader`: what a client that stops reading costs the others.

Many clients stream all the time; for a while, others ask for a lot and read nothing. Inter-token
latency is shown before, meanwhile and after, so that the noise can be seen beside the effect,
and the API's memory with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import psutil

from bench import service
from bench.measure import Stream, quantile
from bench.prompts import prompts
from shared.catalog import load_catalog
from shared.configuration import load_settings
from worker.model_files import ensure_model

_REPLAYS: Final = 300
"""Of one long answer, asked for at once: far more than kernels hold for a connection."""
_SAMPLE_SECONDS: Final = 0.25


@dataclass
class Phase:
    """What was seen while the clients streamed for some time."""

    name: str
    pauses: list[float]
    memory: list[int]
    """Resident bytes of the API, sampled."""


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    for name in settings.models:
        ensure_model(load_catalog(settings)[name], settings, lambda *_: None)
    slots = str(arguments.streams + 1)
    with service.running_service(settings, service.free_port(), SLOTS=slots) as url:
        api = _listener(url)
        (job,) = service.stream_all(url, prompts(1), arguments.tokens)
        service.stream_all(url, prompts(arguments.streams), 8)  # all have computed once

        def phase(name: str) -> Phase:
            print(f"{name}: {arguments.streams} streams for {arguments.seconds:g} s ...")
            return asyncio.run(_measure(name, url, arguments, api))

        phases = [phase("before")]
        with ExitStack() as stack:
            stalled = [
                stack.enter_context(_stalled(url, job.job_id)) for _ in range(arguments.stalled)
            ]
            phases.append(phase(f"{arguments.stalled} not reading"))
            dropped = sum(_is_dropped(each) for each in stalled)
        phases.append(phase("after"))
    _report(phases, dropped, arguments.stalled)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_reader", description=__doc__)
    parser.add_argument("--streams", type=int, default=50, help="clients that read")
    parser.add_argument("--stalled", type=int, default=1, help="clients that do not")
    parser.add_argument("--seconds", type=float, default=60, help="length of each phase")
    parser.add_argument("--tokens", type=int, default=256, help="max_tokens of each stream")
    return parser.parse_args()


async def _measure(
    name: str, url: str, arguments: argparse.Namespace, api: psutil.Process
) -> Phase:
    end = time.perf_counter() + arguments.seconds
    memory: list[int] = []
    async with _sampled(api, memory):
        found = await asyncio.gather(
            *(
                _read_until(url, end, asked, arguments.tokens)
                for asked in prompts(arguments.streams)
            )
        )
    return Phase(name, [pause for pauses in found for pause in pauses], memory)


async def _read_until(url: str, end: float, prompt: str, tokens: int) -> list[float]:
    """One answer after the other; only what falls into the time counts."""
    streams: list[Stream] = []
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0}).encode()
    while time.perf_counter() < end:
        streams.append(await service.stream(url, body))
    for stream in streams:
        stream.arrivals = [arrival for arrival in stream.arrivals if arrival < end]
    return [pause for stream in streams for pause in stream.pauses]


@asynccontextmanager
async def _sampled(process: psutil.Process, memory: list[int]) -> AsyncIterator[None]:
    async def sample() -> None:
        while True:
            memory.append(process.memory_info().rss)
            await asyncio.sleep(_SAMPLE_SECONDS)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()


@contextmanager
def _stalled(url: str, job_id: str) -> Iterator[socket.socket]:
    """A connection that asks for the same stream again and again, and takes none of it."""
    address = urlsplit(url)
    request = f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        connection.sendall(request.encode() * _REPLAYS)
        yield connection


def _is_dropped(connection: socket.socket) -> bool:
    """Whether the end comes before all the replays have."""
    connection.settimeout(5)
    heard = bytearray()
    try:
        while part := connection.recv(1 << 16):
            heard += part
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return heard.count(b"event: done") < _REPLAYS


def _listener(url: str) -> psutil.Process:
    """The API's process: the one among our descendants that has the port."""
    port = urlsplit(url).port
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return process
    raise SystemExit(f"No process of ours listens at {url}.")


def _report(phases: Sequence[Phase], dropped: int, stalled: int) -> None:
    print(f"\n{dropped} of {stalled} dropped. Times in ms, memory of the API in MiB.\n")
    print("| others | tokens | ITL p50 | ITL p99 | memory, first | most |")
    print("|---|---|---|---|---|---|")
    for phase in phases:
        print(
            f"| {phase.name} | {len(phase.pauses)} "
            f"| {quantile(phase.pauses, 0.5) * 1e3:.1f} | {quantile(phase.pauses, 0.99) * 1e3:.1f} "
            f"| {phase.memory[0] / 2**20:.0f} | {max(phase.memory) / 2**20:.0f} |"
        )


if __name__ == "__main__":
    main()
