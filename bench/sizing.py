"""`python -m bench.sizing`: the memory of each process, and how workers share a machine's cores.

Memory is what a container is charged for: of a worker, its two processes together, shared pages
counted once (Linux only).
"""

from __future__ import annotations

import argparse
import os
import time
import urllib.request
from dataclasses import dataclass
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench import service
from bench.measure import summarize
from bench.prompts import prompts
from shared.catalog import load_catalog
from shared.configuration import load_settings
from shared.settings import Settings
from worker.model_files import ensure_model

_ANSWER_TOKENS: Final = 64
_LONG_PROMPT: Final = "word" + " word" * 1000
_SETTLED_SECONDS: Final = 3.0
"""More than a heartbeat, after which an idle service has nothing left to do."""


@dataclass
class Memory:
    """In bytes."""

    worker: float
    api: float
    redis: float
    """As Redis says itself."""
    kv_cache: float


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    for name in settings.models:
        ensure_model(load_catalog(settings)[name], settings, lambda *_: None)
    print("MiB: idle / after short answers in all slots / after as many prompts of 1001 tokens.\n")
    print("| slots | worker | of it for KV at most | API | Redis, KiB per ended job |")
    print("|---|---|---|---|---|")
    for slots in arguments.slots:
        print(_memory_row(settings, slots))
    cores = os.cpu_count() or 1
    found: dict[tuple[int, int], list[tuple[float, float]]] = {
        (workers, cores // workers): [] for workers in sorted({1, 2, cores}) if workers <= cores
    }
    for _ in range(arguments.rounds):
        for layout, rates in found.items():
            rates.append(_rates(settings, *layout, arguments.streams))
    print(f"\nTokens/s on {cores} cores, {arguments.rounds} rounds in turn.\n")
    print(f"| workers x threads | {arguments.streams} streams | one stream |")
    print("|---|---|---|")
    for (workers, threads), rates in found.items():
        many, one = (
            " / ".join(f"{rate:.0f}" for rate in each) for each in zip(*rates, strict=True)
        )
        print(f"| {workers} x {threads} | {many} | {one} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--streams", type=int, default=32, help="shared out to the workers")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _memory_row(settings: Settings, slots: int) -> str:
    metrics_port = service.free_port()
    variables = {"SLOTS": str(slots), "METRICS_PORT": str(metrics_port)}
    with service.running_service(settings, service.free_port(), **variables) as url:
        worker_url = f"http://127.0.0.1:{metrics_port}"
        idle = _memory(url, worker_url)
        service.stream_all(url, prompts(1), _ANSWER_TOKENS)
        before = _memory(url, worker_url).redis  # with what it keeps only once
        service.stream_all(url, prompts(slots), _ANSWER_TOKENS)
        short = _memory(url, worker_url)
        service.stream_all(url, [_LONG_PROMPT] * slots, 2, raw=True)
        full = _memory(url, worker_url)
    of_worker = " / ".join(f"{each.worker / 2**20:.0f}" for each in (idle, short, full))
    of_api = " / ".join(f"{each.api / 2**20:.0f}" for each in (idle, short, full))
    per_job = (short.redis - before) / slots / 2**10
    return f"| {slots} | {of_worker} | {idle.kv_cache / 2**20:.0f} | {of_api} | {per_job:.0f} |"


def _memory(url: str, worker_url: str) -> Memory:
    time.sleep(_SETTLED_SECONDS)
    return Memory(
        worker=_resident("worker"),
        api=_resident("api"),
        redis=_gauge(url, "minivault_redis_memory_bytes"),
        kv_cache=_gauge(worker_url, "minivault_kv_cache_bytes"),
    )


def _resident(command: str) -> int:
    return sum(
        process.memory_full_info().pss
        for process in psutil.Process().children(recursive=True)
        if command in process.cmdline()
    )


def _gauge(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        text = response.read().decode()
    (family,) = (each for each in text_string_to_metric_families(text) if each.name == name)
    return family.samples[0].value


def _rates(settings: Settings, workers: int, threads: int, streams: int) -> tuple[float, float]:
    """Of many streams together, and of one alone."""
    variables = {
        "WORKERS": str(workers),
        "THREADS": str(threads),
        "SLOTS": str(-(-streams // workers)),
    }
    with service.running_service(settings, service.free_port(), **variables) as url:
        service.stream_all(url, prompts(streams), 8)  # all have computed once
        many = summarize(service.stream_all(url, prompts(streams), _ANSWER_TOKENS))
        one = summarize(service.stream_all(url, prompts(1), _ANSWER_TOKENS))
    return many.tokens_per_second, one.tokens_per_second


if __name__ == "__main__":
    main()
