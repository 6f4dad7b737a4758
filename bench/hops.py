"""`python -m bench.hops`: what the way through the queue costs, hop by hop.

Valkey, an API and a worker, as processes of their own, with an engine that only sleeps. A client
with a raw socket sends one request after the other and looks when the first token is there and how
far the following are apart; then streams run together, and CPU time is read.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
import redis

from bench.measure import quantile
from bench.probes import Probe, install, read
from bench.service import free_port
from cli.embedded import valkey_command
from shared.configuration import load_settings
from shared.events import Token
from shared.job import SamplingParams
from shared.settings import PREFIX, Settings
from worker.engine.base import EngineRequest
from worker.engine.fake import FakeEngine


def _has_token(given: tuple[Any, ...], _result: Any) -> bool:
    return any(isinstance(append.event, Token) for append in given[1])


def _is_some(_given: tuple[Any, ...], result: Any) -> bool:
    return result is not None


API: Final = [
    Probe("api.connection:Connection.data_received", "api: request came in"),
    Probe("api.gate:Gate.__call__", "api: at the gate"),
    Probe("api.keyring:Keyring.required", "api: keys asked", "api: keys told"),
    Probe("api.body:BodyLimit.__call__", "api: routed"),
    Probe("api.limits:RateLimits.take", "api: limits asked", "api: limits told"),
    Probe("api.admission:admit_all", "api: body read", "api: admitted"),
    Probe("shared.queue:JobQueue.submit", "api: subscribed, submitting", "api: submitted"),
    Probe(
        "api.hub:Subscriptions._dispatch",
        "api: token heard",
        only=lambda given, _: given[1] == b"message" and b'"type":"token"' in given[3],
    ),
]
WORKER: Final = [
    Probe("shared.ledger:Ledger.wait_and_take", "", "worker: claimed", only=_is_some),
    Probe("worker.loop:EngineLoop.submit", "worker: given to the loop"),
    Probe("worker.loop:EngineLoop._enter", "worker: at its turn", "worker: in the engine"),
    Probe("worker.engine.fake:FakeEngine.step", "worker: step begins", "worker: step ended"),
    Probe(
        "shared.log:EventLog.append_all",
        "worker: token sent",
        "worker: token appended",
        only=_has_token,
    ),
]
_ROLES: Final = {"api": API, "worker": WORKER}
SENT: Final = "client: sent"
FIRST: Final = "client: first token"


def main() -> None:
    arguments = _arguments()
    if arguments.play:
        _play(arguments.play, Path(arguments.notes) if arguments.notes else None)
        return
    for sync in arguments.sync:
        with tempfile.TemporaryDirectory(prefix="mv-hops-") as folder:
            notes = Path(folder)
            took = _sync_seconds(notes) * 1e3
            print(f"\n## appendfsync {sync}; the disk syncs in {took:.2f} ms\n")
            with _stack(notes / "data", sync, arguments.step, notes) as (port, _processes):
                sent = _sequential(port, arguments.requests, arguments.tokens)
            _print_hops(sent, notes, arguments.step)
        with (
            tempfile.TemporaryDirectory(prefix="mv-hops-") as folder,
            _stack(Path(folder) / "data", sync, arguments.load_step, None) as (port, processes),
        ):
            _load(port, processes, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.hops", description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--step", type=float, default=0.006, help="seconds, with one stream")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--load-step", type=float, default=0.015, help="seconds, with all of them")
    parser.add_argument("--load-tokens", type=int, default=400)
    parser.add_argument("--sync", nargs="+", default=["always", "no"], help="Valkey's appendfsync")
    parser.add_argument("--play", choices=_ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--notes", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _play(role: str, notes: Path | None) -> None:
    """Be one of the stack's processes."""
    if notes is not None:
        install(_ROLES[role], notes)
    if role == "api":
        from api.main import run  # noqa: PLC0415  (each process its own)

        run(load_settings())
    else:
        runpy.run_module("tests.support.workers", run_name="__main__")


@contextmanager
def _stack(
    data: Path, sync: str, step: float, notes: Path | None
) -> Iterator[tuple[int, dict[str, psutil.Process]]]:
    """Yields the API's port and the processes."""
    settings = load_settings(data_dir=data)
    settings.prepare_data_dir()
    port = free_port()
    environment = {
        **os.environ,
        PREFIX + "DATA_DIR": str(data),
        PREFIX + "PORT": str(port),
        PREFIX + "RATE_LIMIT": "100000/minute",
        "FAKE_STEP_SECONDS": str(step),
        "FAKE_LOAD_SECONDS": "0",
    }
    commands = {"valkey": [*valkey_command(settings), "--appendfsync", sync]}
    for role in _ROLES:
        command = [sys.executable, "-m", "bench.hops", "--play", role]
        commands[role] = command + (["--notes", str(notes / role)] if notes else [])
    with ExitStack() as stack:
        started = {}
        for role, command in commands.items():
            output = stack.enter_context((settings.logs_dir / f"{role}.log").open("wb"))
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            stack.callback(process.wait, 10)
            stack.callback(process.send_signal, signal.SIGKILL)
            started[role] = psutil.Process(process.pid)
            if role == "valkey":
                _wait_for_valkey(settings)
        _wait_for_answer(port)
        yield port, started


def _wait_for_valkey(settings: Settings) -> None:
    with redis.Redis.from_url(settings.effective_redis_url) as client:
        while True:
            try:
                client.ping()
            except redis.exceptions.ConnectionError:
                time.sleep(0.05)
            else:
                return


def _wait_for_answer(port: int) -> None:
    while True:
        try:
            _stream(port, 2)
        except OSError:
            time.sleep(0.1)
        else:
            return


def _stream(port: int, tokens: int, *, connection: socket.socket | None = None) -> list[float]:
    """When a request was sent, and when each of its tokens was there."""
    body = json.dumps(
        {"prompt": "Once upon a time", "max_tokens": tokens, "temperature": 1, "seed": 4}
    ).encode()
    head = (
        f"POST /generate/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    made = None
    if connection is None:
        made = connection = socket.create_connection(("127.0.0.1", port))
    moments = [time.monotonic()]
    connection.sendall(head.encode() + body)
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        piece = connection.recv(65536)
        now = time.monotonic()
        if not piece:
            raise ConnectionError(received)
        if not received and b" 200 " not in piece:
            raise ConnectionError(piece)
        moments += [now] * piece.count(b"event: token")
        received = (received + piece)[-64:]
    if made is not None:
        made.close()
    return moments


def _sequential(port: int, requests: int, tokens: int) -> list[list[float]]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(5):
            _stream(port, tokens, connection=connection)
        found = []
        for _ in range(requests):
            time.sleep(0.05)  # the last one's books are closed
            found.append(_stream(port, tokens, connection=connection))
    return found


def _print_hops(sent: Sequence[Sequence[float]], notes: Path, step: float) -> None:
    noted = sorted(
        moment for role, probes in _ROLES.items() for moment in read(probes, notes / role)
    )
    offsets: defaultdict[str, list[float]] = defaultdict(list)
    for moments in sent:
        begin, first = moments[0], moments[1]
        offsets[SENT].append(0.0)
        offsets[FIRST].append(first - begin)
        seen: dict[str, float] = {}
        for moment, label in noted:
            if begin <= moment <= first:
                seen.setdefault(label, moment - begin)
        for label, offset in seen.items():
            offsets[label].append(offset)
    print("| hop | ms since the request was sent | p99 | ms more |")
    print("|---|---|---|---|")
    before = 0.0
    for label, found in sorted(offsets.items(), key=lambda item: median(item[1])):
        if len(found) < len(sent) / 2:
            continue
        at = median(found)
        times = (at, quantile(found, 0.99), at - before)
        print(f"| {label} | " + " | ".join(f"{each * 1e3:.2f}" for each in times) + " |")
        before = at
    ttfts = [moments[1] - moments[0] - step for moments in sent]
    pauses = [b - a - step for moments in sent for a, b in pairwise(moments[1:])]
    for what, found in (
        ("TTFT beyond the step", ttfts),
        ("between tokens beyond the step", pauses),
    ):
        print(
            f"\n{what}: p50 {median(found) * 1e3:.2f} ms, p99 {quantile(found, 0.99) * 1e3:.2f} ms"
        )


def _load(port: int, processes: dict[str, psutil.Process], arguments: argparse.Namespace) -> None:
    results: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda: results.append(_stream(port, arguments.load_tokens)))
        for _ in range(arguments.streams)
    ]
    before = {role: _cpu(process) for role, process in processes.items()}
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    spent = {role: _cpu(process) - before[role] for role, process in processes.items()}
    tokens = sum(len(moments) - 1 for moments in results)
    generated = arguments.streams * arguments.load_tokens
    alone = _engine_alone(arguments.streams, arguments.load_tokens, arguments.load_step)
    print(f"\n{arguments.streams} streams, steps of {arguments.load_step * 1e3:g} ms:")
    share = f"{alone / seconds:.1%} of the engine's in process"
    print(f"{generated / seconds:.0f} tokens/s, {share}; {tokens} events")
    each = ", ".join(f"{role} {used / generated * 1e6:.0f}" for role, used in spent.items())
    print(f"CPU, µs a token: {each}, together {sum(spent.values()) / generated * 1e6:.0f}")


def _engine_alone(streams: int, tokens: int, step: float) -> float:
    """Seconds that the engine takes for the same in this process, with nothing around it."""
    engine = FakeEngine(slots=streams, step_seconds=step)
    params = SamplingParams(max_tokens=tokens, temperature=1, seed=4)
    for number in range(streams):
        engine.add(EngineRequest(id=str(number), prompt_ids=(1, 2, 3), params=params))
    began = time.monotonic()
    while engine.has_work:
        engine.step()
    return time.monotonic() - began


def _sync_seconds(folder: Path) -> float:
    """How long the disk takes to have what was just written: Valkey answers no sooner."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 300)
            began = time.monotonic()
            os.fdatasync(file.fileno())
            taken.append(time.monotonic() - began)
    return median(taken)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
