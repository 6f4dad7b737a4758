"""`python -m bench.burst`: what many arrivals at once do to those who arrive, and to those who run.

First, many short prompts at the same instant: the time to their first tokens. Then some streams run
alone for a while, until long prompts arrive: the pauses of the running ones before and after. New
prompts in each run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random

from bench import report, systems
from bench.drivers import Driver
from bench.measure import Stream, quantile, summarize
from bench.prompts import prompts
from bench.workload import Ask, at_once, words
from shared.configuration import load_settings


@dataclass(frozen=True)
class Arrivals:
    """At the same instant. In seconds."""

    ttft_p50: float
    ttft_p99: float


@dataclass(frozen=True)
class Disturbance:
    """Pauses of streams that run, in seconds."""

    before_p50: float
    before_p99: float
    after_p50: float
    after_p99: float
    """From the arrival of the long prompts to the last of their first tokens."""
    long_ttft_p50: float
    long_ttft_p99: float
    long_tokens: float
    """Of each long prompt, on average."""
    ended_early: int
    """Streams that had come to their ends before the last long prompt had its first token."""

    @property
    def ratio(self) -> float:
        return self.after_p99 / self.before_p50


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    together: list[Arrivals] = []
    disturbed: list[Disturbance] = []
    with (
        systems.started(arguments.system, settings, warm_seconds=arguments.warm) as system,
        system.thawed(),
    ):
        for number in range(arguments.runs):
            print(f"run {number + 1} of {arguments.runs} ...", flush=True)
            first = number * arguments.arrivals + 1
            together.append(_arrivals(system.driver, prompts(arguments.arrivals, first)))
            disturbed.append(_disturb(system.driver, arguments, Random(number)))
    _report(together, disturbed, arguments)
    report.save("burst", [list(map(asdict, together)), list(map(asdict, disturbed))])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.burst", description=__doc__)
    parser.add_argument("--system", choices=systems.installed(), default=systems.MINIVAULT)
    parser.add_argument("--arrivals", type=int, default=32, help="at the same instant")
    parser.add_argument("--streams", type=int, default=8, help="that run when long prompts come")
    parser.add_argument("--long", type=int, default=16, help="prompts that come")
    parser.add_argument("--long-tokens", type=int, default=500, help="of each of them")
    parser.add_argument("--alone", type=float, default=3, help="seconds before they come")
    parser.add_argument("--tokens", type=int, default=1000, help="max_tokens of running streams")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warm", type=float, default=15, help="seconds of work before it counts")
    return parser.parse_args()


def _arrivals(driver: Driver, texts: Sequence[str]) -> Arrivals:
    found = summarize(driver.run(at_once(texts, 16)))
    return Arrivals(found.ttft_p50, found.ttft_p99)


def _disturb(driver: Driver, arguments: argparse.Namespace, dice: Random) -> Disturbance:
    # A text that is continued, unlike a chat, has no reason to end.
    running = [Ask(words(16, dice), arguments.tokens, raw=True) for _ in range(arguments.streams)]
    long = [
        Ask(words(arguments.long_tokens, dice), 8, at=arguments.alone, raw=True)
        for _ in range(arguments.long)
    ]
    streams = driver.run([*running, *long])
    if failed := sum(stream.failed for stream in streams):
        sys.exit(f"{failed} of {len(streams)} streams failed.")
    ran, came = streams[: len(running)], streams[len(running) :]
    if max(stream.arrivals[-1] for stream in ran) <= min(stream.started for stream in came):
        sys.exit("No stream ran any more when the long prompts came: lower --alone.")
    return disturbance(ran, came)


def disturbance(running: Sequence[Stream], long: Sequence[Stream]) -> Disturbance:
    """What the arrival of `long` did to those that ran."""
    all_run = max(stream.arrivals[0] for stream in running)
    arrival = min(stream.started for stream in long)
    served = max(stream.arrivals[0] for stream in long)
    before = _pauses_ending(running, all_run, arrival)
    after = _pauses_ending(running, arrival, served)
    ttfts = [stream.ttft for stream in long]
    return Disturbance(
        before_p50=quantile(before, 0.5),
        before_p99=quantile(before, 0.99),
        after_p50=quantile(after, 0.5),
        after_p99=quantile(after, 0.99),
        long_ttft_p50=quantile(ttfts, 0.5),
        long_ttft_p99=quantile(ttfts, 0.99),
        long_tokens=sum(stream.prompt_tokens for stream in long) / len(long),
        ended_early=sum(stream.arrivals[-1] < served for stream in running),
    )


def _pauses_ending(streams: Sequence[Stream], begin: float, end: float) -> list[float]:
    return [
        pause
        for stream in streams
        for arrival, pause in zip(stream.arrivals[1:], stream.pauses, strict=True)
        if begin < arrival <= end
    ]


def _report(
    together: Sequence[Arrivals], disturbed: Sequence[Disturbance], arguments: argparse.Namespace
) -> None:
    def shown(values: Sequence[float]) -> str:
        return report.spread(values, scale=1e3)

    print(f"\n{report.machine()}.")
    print(f"{arguments.system}, {len(together)} runs. In ms: medians of the runs (least to most).")
    report.table(
        [f"{arguments.arrivals} arrivals at once", "p50", "p99"],
        [
            [
                "time to first token",
                shown([each.ttft_p50 for each in together]),
                shown([each.ttft_p99 for each in together]),
            ]
        ],
    )
    tokens = report.middle(each.long_tokens for each in disturbed)
    report.table(
        [f"{arguments.streams} running streams", "p50", "p99"],
        [
            [
                "inter-token latency, undisturbed",
                shown([each.before_p50 for each in disturbed]),
                shown([each.before_p99 for each in disturbed]),
            ],
            [
                f"while {arguments.long} prompts of {tokens} tokens arrive",
                shown([each.after_p50 for each in disturbed]),
                shown([each.after_p99 for each in disturbed]),
            ],
            [
                "time to first token of those prompts",
                shown([each.long_ttft_p50 for each in disturbed]),
                shown([each.long_ttft_p99 for each in disturbed]),
            ],
        ],
    )
    ratios = report.spread([each.ratio for each in disturbed], ".2f")
    print(f"\np99 while they arrive over the undisturbed p50: {ratios}.")
    if early := sum(each.ended_early for each in disturbed):
        print(f"{early} streams ended before the last long prompt had its first token.")


if __name__ == "__main__":
    main()
