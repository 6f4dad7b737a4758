"""`python -m bench.queue_depth`: what a queue of 100, 1,000 and 10,000 jobs of one client costs.

Submits to a Valkey of its own as the API does, and takes as a worker does, in turn, so that the
queue stays as long as it is. Then a second client submits one job, and jobs are taken until it
comes.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Final

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from bench.measure import quantile
from cli.embedded import valkey_command
from shared import job
from shared.configuration import load_settings
from shared.job import GenerationRequest, SamplingParams
from shared.ledger import Ledger
from shared.queue import JobQueue, Limits, Submission
from shared.redis import connect, connect_async
from shared.settings import Settings

_PROMPT: Final = "What is the capital of France, and what was it a thousand years ago? " * 3
_MODEL: Final = "smollm2-135m"
_NO_LIMITS: Final = Limits(max_queued=1_000_000, max_in_flight=1_000_000)


@dataclass
class Timed:
    """Calls of one script, in seconds."""

    seconds: list[float] = field(default_factory=list)
    """As the caller sees them."""
    server_seconds: list[float] = field(default_factory=list)
    """Spent in the server, which does nothing else meanwhile."""

    def __str__(self) -> str:
        p50, p99 = (quantile(self.seconds, q) * 1e3 for q in (0.5, 0.99))
        return f"{p50:.2f} / {p99:.2f} ({mean(self.server_seconds) * 1e3:.2f})"


def main() -> None:
    arguments = _arguments()
    print(
        f"{arguments.probes} of each at each depth; times in ms, p50 / p99 (the server's mean).\n"
    )
    print("| jobs in the queue | submit | take | KiB a job | a second client's job comes |")
    print("|---|---|---|---|---|")
    with running_valkey() as settings:
        for depth in arguments.depths:
            print(asyncio.run(_measure(settings, depth, arguments.probes)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.queue_depth", description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--probes", type=int, default=500)
    return parser.parse_args()


async def _measure(settings: Settings, depth: int, probes: int) -> str:
    """Empties the server; returns a row of the table."""
    with connect(settings, "bench") as redis:
        async with connect_async(settings, "bench") as asynchronous:
            redis.flushall()
            queue = JobQueue(asynchronous, [_MODEL], result_ttl=3600, rq_redis=redis)
            ledger = Ledger(redis, "bench", [_MODEL])
            before = _bytes_used(redis)
            for _ in range(depth):
                await _submit(queue, "first")
            bytes_per_job = (_bytes_used(redis) - before) / depth
            submits, takes = Timed(), Timed()
            for _ in range(probes):
                with _timing(redis, submits):
                    await _submit(queue, "first")
                with _timing(redis, takes):
                    ledger.take()
            wanted = await _submit(queue, "second")
    turns = 1
    while (claim := ledger.take()) is not None and claim.job_id != wanted:
        turns += 1
    kibibytes = bytes_per_job / 1024
    return f"| {depth:,} | {submits} | {takes} | {kibibytes:.1f} | as number {turns} |"


async def _submit(queue: JobQueue, client: str) -> str:
    now = job.now()
    request = GenerationRequest(
        id=job.new_job_id(),
        model=_MODEL,
        prompt=_PROMPT,
        params=SamplingParams(max_tokens=256, temperature=0.7, seed=job.new_seed()),
        client=client,
        created_at=now,
    )
    submission = Submission(_NO_LIMITS, ttl=3600, attended_for=60)
    return await queue.submit(request, submission)


@contextmanager
def _timing(redis: Redis, timed: Timed) -> Iterator[None]:
    server_before = _script_seconds(redis)
    began = time.perf_counter()
    yield
    timed.seconds.append(time.perf_counter() - began)
    timed.server_seconds.append(_script_seconds(redis) - server_before)


def _script_seconds(redis: Redis) -> float:
    """Spent in scripts so far."""
    stats: Any = redis.info("commandstats")
    return float(stats.get("cmdstat_evalsha", {"usec": 0})["usec"]) / 1e6


def _bytes_used(redis: Redis) -> int:
    memory: Any = redis.info("memory")
    return int(memory["used_memory"])


@contextmanager
def running_valkey() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="mv-bench-") as folder:
        settings = load_settings(data_dir=Path(folder))
        settings.prepare_data_dir()
        server = subprocess.Popen(valkey_command(settings), stdout=subprocess.DEVNULL)
        try:
            _wait_for(settings)
            yield settings
        finally:
            server.terminate()
            server.wait(timeout=10)


def _wait_for(settings: Settings) -> None:
    deadline = time.monotonic() + 10
    with connect(settings, "bench") as redis:
        while True:
            try:
                redis.ping()
            except RedisConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


if __name__ == "__main__":
    main()
