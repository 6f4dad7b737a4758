"""`python -m bench.load`: requests as a published trace has them, and how many are served well.

At random times (Poisson, `--rate`), or so many at once for a time (`--streams`). Lengths are those
of the Azure LLM inference trace 2023 (`bench.workload.trace`), scaled and cut to what the model
takes. A request is good that keeps both objectives, its first token and its pauses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from random import Random
from typing import Final

from bench import report, systems
from bench.drivers import Driver
from bench.drivers.openai import OpenAI
from bench.measure import Goodput, Objective, Result, goodput, summarize
from bench.systems import System
from bench.workload import Ask, poisson, trace
from shared.configuration import load_settings
from shared.settings import Settings

_MORE_THAN_ENOUGH: Final = 10_000
"""Requests for streams that ask without a pause."""


@dataclass(frozen=True)
class Run:
    result: Result
    goodput: Goodput
    cpu_seconds: float
    memory_bytes: int


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    objective = Objective(arguments.ttft, arguments.itl)
    runs: list[Run] = []
    with _target(arguments, settings) as (driver, system):
        for seed in range(arguments.runs):
            print(f"run {seed + 1} of {arguments.runs} ...", flush=True)
            before = system.usage() if system else systems.Usage(0, 0)
            asks = _asks(arguments, settings, Random(seed))
            streams = driver.run(asks, concurrency=arguments.streams, seconds=arguments.seconds)
            after = system.usage() if system else before
            runs.append(
                Run(
                    summarize(streams),
                    goodput(streams, objective),
                    after.cpu_seconds - before.cpu_seconds,
                    after.memory_bytes,
                )
            )
    _report(runs, arguments)
    report.save("load", [asdict(run) for run in runs])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--system", choices=systems.installed(), default=systems.MINIVAULT)
    parser.add_argument("--url", help="a server with OpenAI's protocol that runs already, instead")
    parser.add_argument("--model", default="default", help="its model's name")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rate", type=float, default=1, help="requests a second, at random times")
    how.add_argument("--streams", type=int, help="requests at once, one after the other")
    parser.add_argument("--seconds", type=float, default=60, help="in which requests are sent")
    parser.add_argument("--scale", type=float, default=0.25, help="of the trace's lengths")
    parser.add_argument("--ttft", type=float, default=1, help="objective: seconds at most")
    parser.add_argument("--itl", type=float, default=0.2, help="objective: p99 of a stream's")
    parser.add_argument("--runs", type=int, default=3, help="with seeds 0, 1, ...")
    parser.add_argument("--warm", type=float, default=15, help="seconds of work before it counts")
    return parser.parse_args()


@contextmanager
def _target(
    arguments: argparse.Namespace, settings: Settings
) -> Iterator[tuple[Driver, System | None]]:
    if arguments.url:
        yield OpenAI(arguments.url.rstrip("/"), arguments.model), None
        return
    with (
        systems.started(arguments.system, settings, warm_seconds=arguments.warm) as system,
        system.thawed(),
    ):
        yield system.driver, system


def _asks(arguments: argparse.Namespace, settings: Settings, dice: Random) -> list[Ask]:
    times = (
        [0.0] * _MORE_THAN_ENOUGH
        if arguments.streams
        else poisson(arguments.rate, arguments.seconds, dice)
    )
    return trace(
        times,
        dice,
        scale=arguments.scale,
        most_prompt=settings.max_prompt_tokens - 64,  # of which the chat's template takes some
        most_output=settings.max_tokens,
    )


def _report(runs: Sequence[Run], arguments: argparse.Namespace) -> None:
    results = [run.result for run in runs]
    count = f"{arguments.streams} at once" if arguments.streams else f"{arguments.rate:g} a second"
    requests = sum(each.streams for each in results)
    prompt = sum(each.prompt_tokens for each in results) / requests
    output = sum(each.tokens for each in results) / requests
    print(f"\n{report.machine()}.")
    print(
        f"{arguments.url or arguments.system}: requests {count} for {arguments.seconds:g} s, "
        f"{len(runs)} runs, {requests} requests ({sum(each.failed for each in results)} failed), "
        f"lengths x {arguments.scale:g}: {prompt:.0f} prompt and {output:.0f} output tokens on "
        "average. Medians of the runs (least to most)."
    )
    report.table(
        ["in ms", "p50", "p90", "p99"],
        [
            [
                name,
                *(
                    report.spread([getattr(each, f"{key}_{p}") for each in results], scale=1e3)
                    for p in ("p50", "p90", "p99")
                ),
            ]
            for name, key in (("TTFT", "ttft"), ("ITL", "itl"), ("end to end", "e2e"))
        ],
    )
    cost = [
        ["tokens/s", report.spread([each.tokens_per_second for each in results])],
        [
            f"good requests (TTFT ≤ {arguments.ttft:g} s, ITL p99 ≤ {arguments.itl:g} s)",
            report.spread([run.goodput.share for run in runs], ".0%"),
        ],
        ["good requests a second", report.spread([run.goodput.per_second for run in runs], ".2f")],
    ]
    if not arguments.url:
        cost += [
            [
                "CPU ms a token",
                report.spread([run.cpu_seconds / run.result.tokens for run in runs], ".1f", 1e3),
            ],
            ["memory, MiB", report.spread([run.memory_bytes for run in runs], scale=2**-20)],
        ]
    report.table(["", "median (least to most)"], cost)


if __name__ == "__main__":
    main()
