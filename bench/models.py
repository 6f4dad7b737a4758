"""`python -m bench.models`: several models served by workers that have not room for all of them.

Real worker processes with a pretended engine, whose loads and steps take the time they are told.
The same mix of requests is run in the order that workers choose and in the naive one, in which
they take from one model after the other whatever they have in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import mean
from typing import Final, NamedTuple, NoReturn

import msgspec
from redis import Redis

from bench.queue_depth import running_valkey
from shared import job, names
from shared.claim import Claim
from shared.configuration import load_settings
from shared.errors import ModelUnavailableError
from shared.events import Done
from shared.job import GenerationRequest, SamplingParams
from shared.ledger import Ledger
from shared.log import EventLog
from shared.logging import configure
from shared.queue import JobQueue, Limits, Submission, workers
from shared.redis import connect, connect_async
from shared.settings import PREFIX, Settings
from shared.store import Store
from worker import service
from worker.engine.fake import CodePoints, FakeEngine
from worker.memory import Need
from worker.models import LoadedModel
from worker.nursery import new_worker_name
from worker.stock import Stock

ORDERS: Final = ("chosen", "naive")
_LOAD_SECONDS: Final = "BENCH_LOAD_SECONDS"
_STEP_SECONDS: Final = 0.002
_WORDS: Final = "a mix of requests for several models "
_NO_LIMITS: Final = Limits(max_queued=1_000_000, max_in_flight=1_000_000)


class Mix(NamedTuple):
    requests: int = 300
    models: int = 3
    workers: int = 2
    places: int = 2
    """Models that a worker has room for."""
    slots: int = 4
    per_second: float = 12
    """Requests that come in, at random times."""
    load_seconds: float = 0.5
    patience: float = 10


class Figures(NamedTuple):
    completed: int
    loads: int
    """Of models, the default one at the start included."""
    swaps: int
    """Models put out of memory for another one."""
    longest_wait: float
    """Seconds until the first token."""
    mean_wait: float
    seconds: float
    """From the first request to the last end."""


def main() -> None:
    arguments = _arguments()
    if arguments.as_worker:
        _work(arguments.as_worker)
        return
    mix = Mix(**{name: getattr(arguments, name) for name in Mix._fields})
    print(
        f"{mix.requests} requests for {mix.models} models, {mix.per_second:g} a second, "
        f"{mix.workers} workers with {mix.places} places and {mix.slots} slots each; a load takes "
        f"{mix.load_seconds:g} s, patience is {mix.patience:g} s.\n"
    )
    print("| order | completed | loads | swaps | longest wait | mean wait | all done after |")
    print("|---|---|---|---|---|---|---|")
    for order in ORDERS:
        found = measure(mix, order)
        print(
            f"| {order} | {found.completed} | {found.loads} | {found.swaps} "
            f"| {found.longest_wait:.1f} s | {found.mean_wait:.2f} s | {found.seconds:.1f} s |",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    for name, default in Mix._field_defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--as-worker", choices=ORDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(mix: Mix, order: str) -> Figures:
    """Run the mix once, on a Valkey of its own."""
    with running_valkey() as base:
        settings = base.model_copy(
            update={"models": tuple(f"model-{number}" for number in range(mix.models))}
        )
        with connect(settings, "bench") as redis, _working(settings, redis, mix, order):
            began = time.monotonic()
            submitted = asyncio.run(_submit_all(settings, redis, mix))
            while redis.zcard(names.JOBS):
                time.sleep(0.05)
            seconds = time.monotonic() - began
            time.sleep(3)  # the workers' next heartbeats tell of their last swaps
            infos = workers(redis).values()
            swaps = sum(info.swaps for info in infos)
            loads = swaps + sum(len(info.loaded) for info in infos)
            ends = [EventLog(redis).read_job(job_id)[1][-1] for job_id in submitted]
    done = [end for end in ends if isinstance(end, Done)]
    waits = [end.timings.queue + end.timings.prefill for end in done]
    return Figures(len(done), loads, swaps, max(waits), mean(waits), seconds)


@contextmanager
def _working(settings: Settings, redis: Redis, mix: Mix, order: str) -> Iterator[None]:
    environment = {
        **os.environ,
        _LOAD_SECONDS: str(mix.load_seconds),
        PREFIX + "DATA_DIR": str(settings.data_dir),
        PREFIX + "MODELS": ",".join(settings.models),
        PREFIX + "MAX_LOADED_MODELS": str(mix.places),
        PREFIX + "SLOTS": str(mix.slots),
        PREFIX + "MODEL_PATIENCE": str(mix.patience),
        PREFIX + "LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "bench.models", "--as-worker", order]
    with ExitStack() as stack:
        for _ in range(mix.workers):
            process = subprocess.Popen(command, env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
        deadline = time.monotonic() + 30
        while len(workers(redis)) < mix.workers:
            if time.monotonic() > deadline:
                sys.exit("The workers did not start; see their messages above.")
            time.sleep(0.1)
        yield


async def _submit_all(settings: Settings, redis: Redis, mix: Mix) -> list[str]:
    """Each at its time; the same ones in every run."""
    draw = random.Random(5)
    start, due, submitted = time.monotonic(), 0.0, []
    async with connect_async(settings, "bench") as asynchronous:
        queue = JobQueue(asynchronous, result_ttl=3600, rq_redis=redis)
        for _ in range(mix.requests):
            due += draw.expovariate(mix.per_second)
            request = GenerationRequest(
                id=job.new_job_id(),
                model=draw.choice(settings.models),
                prompt=_WORDS * draw.randint(1, 4),
                params=SamplingParams(max_tokens=200, temperature=0, seed=1),
                client=f"client-{draw.randint(1, 5)}",
                created_at=0,
            )
            await asyncio.sleep(max(0.0, start + due - time.monotonic()))
            now = msgspec.structs.replace(request, created_at=job.now())
            submission = Submission(_NO_LIMITS, ttl=3600, attended_for=None)
            submitted.append(await queue.submit(now, submission))
    return submitted


class _Prompts:
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        return CodePoints().encode(request.prompt)


class _WeightlessStock(Stock):
    def need(self, name: str) -> Need:
        del name
        return Need(0, 0, 0)


class _NaiveAgenda:
    """One job of one model after the other, as if all were in memory."""

    def __init__(self, _redis: Redis, ledger: Ledger, *_args: object, **_options: object) -> None:
        self._ledger = ledger

    def take(self) -> Claim | None:
        return self._ledger.take()

    def wait(self, seconds: int, models: Sequence[str] | None = None) -> None:
        self._ledger.wait(seconds, models)


def _work(order: str) -> None:
    settings = load_settings()
    configure(settings, "worker")
    if order == "naive":
        setattr(service, "Agenda", _NaiveAgenda)  # noqa: B010  (mypy knows it as another class)
    pretend(settings, float(os.environ[_LOAD_SECONDS]), _STEP_SECONDS)


def pretend(settings: Settings, load_seconds: float, step_seconds: float) -> None:
    """Be a worker, with an engine that takes the time it is told and computes nothing."""

    def load(name: str) -> LoadedModel:
        time.sleep(load_seconds)
        engine = FakeEngine(slots=settings.slots, step_seconds=step_seconds)
        return LoadedModel(name=name, engine=engine, prompts=_Prompts())

    redis, store = connect(settings, "worker"), Store.open(settings, patient=True)
    service.WorkerService(
        settings,
        redis,
        load,
        _no_tokenizer,
        store,
        name=new_worker_name(),
        stock=_WeightlessStock(settings),
    ).run()


def _no_tokenizer(name: str) -> NoReturn:
    raise ModelUnavailableError(f"Nobody asks for the tokens of {name} here.")


if __name__ == "__main__":
    main()
