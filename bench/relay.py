"""`python -m bench.relay`: what one API process on one core relays, and what idle streams cost.

A fake engine appends one token to each of many jobs at a steady pace, through the script that
workers use, to a Valkey as `minivault up` runs it; one API process, alone on a core, streams them
to as many connections. Everything else shares the other core. Every stream is looked through for
what is missing, repeated or misplaced, and a token's delay is counted from before the engine began
to send its step.

Then an API process of its own holds streams of jobs that run and say nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final
from urllib.error import URLError

import psutil
from redis import Redis

from bench.measure import quantile
from bench.queue_depth import running_valkey
from bench.relay_reader import Heard, hold, read
from bench.service import free_port
from shared import job, names
from shared.events import AnyEvent, Done, FinishReason, Queued, Started, Timings, Token, Usage
from shared.log import Append, EventLog
from shared.redis import connect
from shared.settings import PREFIX, Settings

_API: Final = (
    "from api.main import run; from shared.configuration import load_settings; run(load_settings())"
)
_OWNER: Final = "bench/1"
_API_CORE, _OTHER_CORE = {0}, {1}
_SLACK_SECONDS: Final = 20.0
"""For what is still on its way when the engine has ended."""
_WARM_STREAMS: Final = 50

_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Steps:
    """What the fake engine did."""

    sent: list[float]
    """When each step began to be sent."""
    ended: float
    cpu: float
    """Seconds."""


def main() -> None:
    arguments = _arguments()
    os.sched_setaffinity(0, _OTHER_CORE)
    with running_valkey() as settings:
        print(f"{arguments.streams} streams, {arguments.seconds:g} s each. Delays in ms.\n")
        print("| offered/s | relayed/s | p50 | p99 | most | faults | tokens a write |", end="")
        print(" CPU: API | Valkey | engine | clients |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for rate in arguments.rates:
            print(_relayed(settings, arguments.streams, rate, arguments.seconds), flush=True)
        if arguments.idle:
            print("\n" + _idle(settings, arguments.idle, arguments.seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument(
        "--rates", type=int, nargs="*", default=[5000, 10_000, 16_000, 20_000, 25_000]
    )
    parser.add_argument("--seconds", type=float, default=5, help="how long each rate is held")
    parser.add_argument("--idle", type=int, default=2000, help="streams that are only held")
    return parser.parse_args()


def _relayed(settings: Settings, streams: int, rate: int, seconds: float) -> str:
    """A row of the table."""
    steps = max(2, round(rate * seconds / streams))
    with _api(settings) as (api, port), connect(settings, "bench") as redis:
        redis.flushall()
        job_ids = _jobs(redis, streams)
        heard, done, cpu = _watched(settings, api, redis, port, job_ids, streams / rate, steps)
    faults = heard.missing + heard.repeated + heard.misplaced + heard.unfinished
    offered = streams * steps / max(done.ended - done.sent[0], streams / rate * steps)
    p50, p99, most = (quantile(heard.delays, q) * 1e3 for q in (0.5, 0.99, 1))
    shares = " | ".join(f"{each:.0%}" for each in cpu)
    return (
        f"| {offered:,.0f} of {rate:,} | {heard.rate:,.0f} | {p50:.1f} | {p99:.1f} | {most:.0f} "
        f"| {faults} | {heard.tokens / heard.sends:.1f} | {shares} |"
    )


def _watched(  # noqa: PLR0917
    settings: Settings,
    api: psutil.Process,
    redis: Redis,
    port: int,
    job_ids: Sequence[str],
    interval: float,
    steps: int,
) -> tuple[Heard, Steps, list[float]]:
    """With the shares of a core that the API, Valkey, the engine and the clients took."""
    pipe, theirs = _processes.Pipe()
    mine, engine_pipe = _processes.Pipe()
    limit = interval * steps * 4 + _SLACK_SECONDS
    reader = _processes.Process(target=read, args=(port, job_ids, theirs, limit))
    reader.start()
    engine = _processes.Process(
        target=_engine, args=(settings, job_ids, interval, steps, engine_pipe)
    )
    engine.start()
    assert pipe.recv() == "ready"
    information: Any = redis.info("server")
    watched = [api, psutil.Process(information["process_id"]), psutil.Process(reader.pid)]
    before = [_cpu_seconds(each) for each in watched]
    mine.send("go")
    done: Steps = mine.recv()
    took = done.ended - done.sent[0]
    api_share, valkey, clients = (
        (_cpu_seconds(each) - spent) / took for each, spent in zip(watched, before, strict=True)
    )
    pipe.send(done.sent)
    heard: Heard = pipe.recv()
    for process in (reader, engine):
        process.join()
    return heard, done, [api_share, valkey, done.cpu / took, clients]


def _engine(
    settings: Settings, job_ids: Sequence[str], interval: float, steps: int, pipe: Connection
) -> None:
    """Each step appends one token to every job, in one round trip, as the publisher does."""
    sent: list[float] = []
    with connect(settings, "bench") as redis:
        log = EventLog(redis)
        pipe.recv()
        start, cpu = time.monotonic(), time.process_time()
        for step in range(steps):
            time.sleep(max(0.0, start + step * interval - time.monotonic()))
            sent.append(time.monotonic())
            _append(log, job_ids, Token(seq=step + 3, ids=(step,), text=f" {step}"))
        ended, cpu = time.monotonic(), time.process_time() - cpu
        usage = Usage(prompt_tokens=1, completion_tokens=steps)
        timings = Timings(queue=0, prefill=0, decode=0, total=0)
        _append(
            log,
            job_ids,
            Done(seq=steps + 3, finish_reason=FinishReason.STOP, usage=usage, timings=timings),
        )
    pipe.send(Steps(sent, ended, cpu))


def _idle(settings: Settings, streams: int, seconds: float) -> str:
    with _api(settings, MAX_CONNECTIONS=str(streams + 100)) as (api, port):
        with connect(settings, "bench") as redis:
            redis.flushall()
            job_ids = _jobs(redis, streams)
        with _held(port, job_ids[:_WARM_STREAMS]):
            pass
        before = api.memory_info().rss
        with _held(port, job_ids):
            spent = _cpu_seconds(api)
            time.sleep(seconds)
            share = (_cpu_seconds(api) - spent) / seconds
            grown = (api.memory_info().rss - before) / streams
    return f"{streams:,} idle streams: {grown / 1024:.1f} KiB each, {share:.0%} of a core."


@contextmanager
def _held(port: int, job_ids: Sequence[str]) -> Iterator[None]:
    pipe, theirs = _processes.Pipe()
    reader = _processes.Process(target=hold, args=(port, job_ids, theirs))
    reader.start()
    assert pipe.recv() == "ready"
    yield
    pipe.send("enough")
    reader.join()


def _jobs(redis: Redis, count: int) -> list[str]:
    """Jobs that run: claimed, with the log that they have before the first token."""
    log = EventLog(redis)
    job_ids = [job.new_job_id() for _ in range(count)]
    redis.hset(names.CLAIMS, mapping=dict.fromkeys(job_ids, _OWNER))
    for job_id in job_ids:
        _append(log, [job_id], Queued(seq=1, id=job_id, model="m", position=0))
        _append(log, [job_id], Started(seq=2, prompt_tokens=1))
    return job_ids


def _append(log: EventLog, job_ids: Sequence[str], event: AnyEvent) -> None:
    accepted = log.append_all([Append(job_id, _OWNER, event) for job_id in job_ids])
    assert all(accepted)


@contextmanager
def _api(settings: Settings, **variables: str) -> Iterator[tuple[psutil.Process, int]]:
    """An API process as `minivault` starts it, on a core of its own."""
    port = free_port()
    environment = {
        **os.environ,
        PREFIX + "DATA_DIR": str(settings.data_dir),
        PREFIX + "REDIS_URL": settings.effective_redis_url,
        PREFIX + "PORT": str(port),
        PREFIX + "RATE_LIMIT": "off",
        PREFIX + "LOG_LEVEL": "warning",
        **{PREFIX + name: value for name, value in variables.items()},
    }
    os.sched_setaffinity(0, _API_CORE)  # inherited
    process = subprocess.Popen([sys.executable, "-c", _API], env=environment)
    os.sched_setaffinity(0, _OTHER_CORE)
    try:
        _wait_until_ready(port)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
            return
        time.sleep(0.1)
    sys.exit("The API did not start; see its message above.")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
