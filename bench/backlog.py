"""What a new request has to wait for while others' jobs stand in the queue.

API, queue and worker are the service's own processes; the engine is a pretended one, whose steps
take a fixed time, so that what changes with the queue's length is not covered by the model. One
client's jobs are kept waiting; another one asks.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.error import URLError
from urllib.parse import urlsplit

from redis import Redis

from bench import models, service
from bench.queue_depth import running_valkey
from shared import job, names
from shared.configuration import load_settings
from shared.job import GenerationRequest, SamplingParams
from shared.logging import configure
from shared.queue import JobQueue, Limits, Submission, workers
from shared.redis import connect, connect_async
from shared.settings import PREFIX, Settings

SLOTS: Final = 4
STEP_SECONDS: Final = 0.005
MEAN_TOKENS: Final = 20
"""Of a waiting job's answer, one a step: a slot becomes free every 25 ms on average."""
_WAITING_PROMPT: Final = "One of many that wait, and is told back. " * 2
_READY_SECONDS: Final = 60
_NO_LIMITS: Final = Limits(max_queued=1_000_000, max_in_flight=1_000_000)


@dataclass(frozen=True)
class Waits:
    """In seconds, one for each probe."""

    submits: list[float]
    """`POST /jobs`, until it is answered."""
    ttfts: list[float]
    """`POST /generate/stream`, until the first token."""


def measure(depths: Sequence[int], probes: int) -> Iterator[tuple[int, Waits]]:
    """At so many waiting jobs each. `depths` ascending: the queue only grows."""
    with (
        running_valkey() as settings,
        connect(settings, "bench") as redis,
        _running(settings, redis) as url,
    ):
        for depth in depths:
            _fill(settings, redis, depth)
            service.stream_all(url, ["first"], 2, raw=True)  # those before it are done
            ttfts = []
            for _ in range(probes):
                _fill(settings, redis, depth)
                ttfts.append(service.stream_all(url, ["a question"], 2, raw=True)[0].ttft)
            _fill(settings, redis, depth)
            yield depth, Waits(_submits(url, probes), ttfts)


def _submits(url: str, count: int) -> list[float]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=30)
    body = json.dumps({"prompt": "a question", "raw": True, "max_tokens": 2, "temperature": 0})
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("POST", "/jobs", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - began)
        if answer.status != http.client.ACCEPTED:
            sys.exit(f"POST /jobs was answered with {answer.status}.")
    connection.close()
    return seconds


def _fill(settings: Settings, redis: Redis, depth: int) -> None:
    """Have so many jobs wait, in RQ's queue and ours."""
    waiting = redis.zcard(names.order(settings.default_model))
    asyncio.run(_submit(settings, redis, depth - int(waiting)))


async def _submit(settings: Settings, redis: Redis, count: int) -> None:
    draw = random.Random(count)
    async with connect_async(settings, "bench") as asynchronous:
        queue = JobQueue(asynchronous, result_ttl=60, rq_redis=redis)
        for _ in range(count):
            tokens = draw.randint(1, 2 * MEAN_TOKENS - 1)  # lest all slots end in one step
            request = GenerationRequest(
                id=job.new_job_id(),
                model=settings.default_model,
                prompt=_WAITING_PROMPT,
                params=SamplingParams(max_tokens=tokens, temperature=0, seed=1),
                raw=True,
                client="the others",
                created_at=job.now(),
            )
            await queue.submit(request, Submission(_NO_LIMITS, ttl=3600, attended_for=None))


@contextmanager
def _running(settings: Settings, redis: Redis) -> Iterator[str]:
    port = service.free_port()
    environment = {
        **os.environ,
        PREFIX + "DATA_DIR": str(settings.data_dir),
        PREFIX + "REDIS_URL": settings.effective_redis_url,
        PREFIX + "PORT": str(port),
        PREFIX + "RATE_LIMIT": "off",
        PREFIX + "MAX_QUEUED": str(_NO_LIMITS.max_queued),
        PREFIX + "SLOTS": str(SLOTS),
        PREFIX + "LOG_LEVEL": "error",
    }
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        for command in (["cli", "api"], ["bench.backlog", "--as-worker"]):
            process = subprocess.Popen([sys.executable, "-m", *command], env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + _READY_SECONDS
        while not (workers(redis) and _is_ready(url)):
            if time.monotonic() > deadline:
                sys.exit("API and worker did not start; see their messages above.")
            time.sleep(0.1)
        yield url


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2):
            return True
    except (URLError, OSError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--as-worker", action="store_true", required=True)
    parser.parse_args()
    settings = load_settings()
    configure(settings, "worker")
    models.pretend(settings, 0, STEP_SECONDS)


if __name__ == "__main__":
    main()
