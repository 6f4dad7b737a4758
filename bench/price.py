"""`python -m bench.price`: what HTTP, queue and Redis cost, beside the same engine in process.

Each measurement of the one is followed at once by the same of the other, as the machine's own
speed may be another a few seconds later; they take turns in going first. Short requests one after
the other for what is added to the first token; many streams for what is left of the throughput.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench import report, systems
from bench.measure import Result, Stream, quantile, summarize
from bench.prompts import prompts
from bench.systems import System
from bench.workload import Ask, at_once
from shared.configuration import load_settings

_QUIET_SECONDS: Final = 0.3
"""In which the service ends what nobody waits for any more: rows, RQ's books."""


@dataclass(frozen=True)
class Side:
    """The service or the engine, in one round."""

    ttfts: list[float]
    """Of single short requests, in seconds."""
    results: dict[int, Result]
    """By the number of streams."""


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    rounds: list[tuple[Side, Side]] = []
    with (
        systems.started(systems.MINIVAULT, settings, warm_seconds=arguments.warm) as service,
        systems.started(systems.ENGINE, settings, warm_seconds=arguments.warm) as engine,
    ):
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds} ...", flush=True)
            rounds.append(_round(service, engine, arguments, number))
    _report(rounds, arguments)
    report.save("price", [[asdict(side) for side in both] for both in rounds])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.price", description=__doc__)
    parser.add_argument("--probes", type=int, default=60, help="short requests a round")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="max_tokens of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=float, default=15, help="seconds of work before it counts")
    return parser.parse_args()


def _round(
    service: System, engine: System, arguments: argparse.Namespace, number: int
) -> tuple[Side, Side]:
    sides = Side([], {}), Side([], {})
    pairs = [*zip((service, engine), sides, strict=True)][:: -1 if number % 2 else 1]
    for count in arguments.streams:
        asks = at_once(prompts(count, number * 1000 + count), arguments.tokens)
        for system, side in pairs:
            side.results[count] = summarize(_measured(system, asks))
    first = number * arguments.probes
    # What is added does not depend on the prompt; the less there is to compute, the less the
    # machine's moods cover it.
    probes = [Ask(f"Number {i}:", 2, raw=True) for i in range(first, first + arguments.probes)]
    for system, side in pairs:
        measured = _measured(system, probes, concurrency=1)
        side.ttfts.extend(stream.ttft for stream in measured)
    return sides


def _measured(
    system: System, asks: Sequence[Ask], *, concurrency: int | None = None
) -> list[Stream]:
    with system.thawed():
        time.sleep(_QUIET_SECONDS)
        return system.driver.run(asks, concurrency=concurrency)


def _report(rounds: Sequence[tuple[Side, Side]], arguments: argparse.Namespace) -> None:
    def row(name: str, found: Sequence[tuple[float, float]]) -> list[str]:
        """Of service and engine in each round."""
        return [
            name,
            *(report.middle(values, ".1f", 1e3) for values in zip(*found, strict=True)),
            report.spread([service - engine for service, engine in found], "+.1f", 1e3),
        ]

    print(f"\n{report.machine()}.")
    print(
        f"{len(rounds)} rounds of {arguments.probes} short requests, then of streams of at most "
        f"{arguments.tokens} tokens. Times in ms: medians of the rounds (least to most)."
    )
    rows = [
        row(
            f"TTFT {name} of a short request",
            [(quantile(service.ttfts, q), quantile(engine.ttfts, q)) for service, engine in rounds],
        )
        for name, q in (("p50", 0.5), ("p99", 0.99))
    ]
    for count in arguments.streams:
        both = [(service.results[count], engine.results[count]) for service, engine in rounds]
        itls = [(service.itl_p50, engine.itl_p50) for service, engine in both]
        tokens = [(service.seconds_per_token, engine.seconds_per_token) for service, engine in both]
        rows += [
            row(f"ITL p50, {count} at once", itls),
            row(f"time per token, {count} at once", tokens),
        ]
    report.table(["", "whole path", "engine alone", "added"], rows)
    report.table(
        ["streams", "tokens/s, whole path", "engine alone", "share"],
        [
            [
                str(count),
                *(
                    report.middle(both[side].results[count].tokens_per_second for both in rounds)
                    for side in (0, 1)
                ),
                report.spread(
                    [service.results[count] / engine.results[count] for service, engine in rounds],
                    ".1%",
                ),
            ]
            for count in arguments.streams
        ],
    )


if __name__ == "__main__":
    main()
