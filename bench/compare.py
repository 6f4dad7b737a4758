"""`python -m bench.compare`: the whole path beside what others would pick instead.

Every system answers the same prompts, greedily, as a chat, in turn within each round, while the
others stand still; MiniVault goes on, and what it takes meanwhile is told. Ratios are taken within
a round. Prompts are new in every round, so of a prefix cache only what chats share helps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from bench import report, systems
from bench.measure import Result, summarize
from bench.plots import bars
from bench.prompts import prompts
from bench.systems import System
from bench.workload import at_once
from shared.configuration import load_settings

RECORDED: Final = {1: 96.0, 8: 187.0, 32: 246.0}
"""Tokens/s of llama.cpp's server at so many streams of 64 tokens, recorded once on two such cores.

The best of Q4_1 and Q8_0, 32 slots. For where there is no llama-server to be measured.
"""
_DETAILS: Final = (
    *("times in ms", "streams", "TTFT p50 / p90 / p99", "ITL p50 / p90 / p99"),
    *("end to end p50 / p90 / p99", "tokens", "CPU ms a token", "memory, MiB", "KiB a token held"),
)
_PLOT: Final = Path("docs/performance-others.svg")


@dataclass(frozen=True)
class Measured:
    result: Result
    cpu_seconds: float
    memory_bytes: int
    """After the streams, which no system gives back."""

    @property
    def cpu_per_token(self) -> float:
        return self.cpu_seconds / self.result.tokens

    @property
    def memory_per_token(self) -> float:
        """Bytes, over the tokens that it held at once: prompts and answers of all streams."""
        return self.memory_bytes / (self.result.prompt_tokens + self.result.tokens)


Round: TypeAlias = dict[tuple[str, int], Measured]
"""By the system and the number of streams."""


def main(rounds: int = 5) -> None:
    arguments = _arguments(rounds)
    settings = load_settings()
    settings.prepare_data_dir()
    with ExitStack() as stack:
        running = []
        for name in arguments.systems:
            print(f"starting {name} ...", flush=True)
            started = systems.started(name, settings, warm_seconds=arguments.warm)
            running.append(stack.enter_context(started))
        begin, used = time.monotonic(), [system.usage().cpu_seconds for system in running]
        found = []
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds} ...", flush=True)
            found.append(_round(running, number, arguments.streams, arguments.tokens))
        seconds = time.monotonic() - begin
        idle = {
            system.name: _idle(system, before, found, seconds)
            for system, before in zip(running, used, strict=True)
        }
    _report(found, arguments.streams, arguments.tokens)
    if len(running) > 1:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in idle.items())
        print(f"\nOf one core, while others were measured: {shares}.")
    if failed := sum(each.result.failed for every in found for each in every.values()):
        print(f"\n{failed} streams failed, and count for nothing.")
    if arguments.plot:
        _plot(found, arguments.streams)
    report.save(
        "compare",
        [
            {"system": name, "streams": count, **asdict(measured)}
            for each in found
            for (name, count), measured in each.items()
        ],
    )


def _arguments(rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    installed = systems.installed()
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=installed,
        default=[name for name in installed if name != systems.ENGINE],
        help="the first is compared with each of the others",
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="max_tokens of each stream")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--warm", type=float, default=15, help="seconds of work before it counts")
    parser.add_argument("--plot", action="store_true", help=f"write {_PLOT}")
    return parser.parse_args()


def _idle(system: System, before: float, rounds: Sequence[Round], seconds: float) -> float:
    """Cores that a system took while it was not measured."""
    own = [
        measured for each in rounds for (name, _), measured in each.items() if name == system.name
    ]
    used = system.usage().cpu_seconds - before - sum(each.cpu_seconds for each in own)
    return used / max(1e-9, seconds - sum(each.result.seconds for each in own))


def _round(running: Sequence[System], number: int, streams: Sequence[int], tokens: int) -> Round:
    found: Round = {}
    for system in running:
        with system.thawed():
            for count in streams:
                first = number * sum(streams) + sum(streams[: streams.index(count)]) + 1
                before = system.usage()
                result = summarize(system.driver.run(at_once(prompts(count, first), tokens)))
                after = system.usage()
                found[system.name, count] = Measured(
                    result, after.cpu_seconds - before.cpu_seconds, after.memory_bytes
                )
    return found


def _report(rounds: Sequence[Round], streams: Sequence[int], tokens: int) -> None:
    names = list(dict.fromkeys(name for name, _ in rounds[0]))
    print(f"\n{report.machine()}.")
    print(f"{len(rounds)} rounds, at most {tokens} tokens a stream. Medians (least to most).")
    head = ["tokens/s", *(f"{count} streams" if count > 1 else "1 stream" for count in streams)]
    rows = [
        [name, *(report.spread(_rates(rounds, name, count)) for count in streams)] for name in names
    ]
    for other in names[1:]:
        ratios = [
            [each[names[0], count].result / each[other, count].result for each in rounds]
            for count in streams
        ]
        rows.append([f"{names[0]} / {other}", *(report.spread(each, ".2f") for each in ratios)])
    if systems.LLAMA not in names:
        rows.append(["llama.cpp server, *recorded, not in this run*", *map(_recorded, streams)])
        shares = [
            report.spread(
                [rate / RECORDED[count] for rate in _rates(rounds, names[0], count)], ".2f"
            )
            if count in RECORDED
            else "-"
            for count in streams
        ]
        rows.append([f"{names[0]} / llama.cpp, recorded", *shares])
    report.table(head, rows)
    report.table(
        _DETAILS,
        [_details(rounds, name, count) for name in names for count in streams],
    )


def _rates(rounds: Sequence[Round], name: str, count: int) -> list[float]:
    return [each[name, count].result.tokens_per_second for each in rounds]


def _recorded(count: int) -> str:
    return f"{RECORDED[count]:.0f}" if count in RECORDED else "-"


def _details(rounds: Sequence[Round], name: str, count: int) -> list[str]:
    """Times in ms."""
    measured = [each[name, count] for each in rounds]
    results = [each.result for each in measured]

    def three(prefix: str) -> str:
        return " / ".join(
            report.middle((getattr(each, f"{prefix}_{p}") for each in results), scale=1e3)
            for p in ("p50", "p90", "p99")
        )

    return [
        name,
        str(count),
        three("ttft"),
        three("itl"),
        three("e2e"),
        report.middle(each.tokens for each in results),
        report.middle((each.cpu_per_token for each in measured), ".1f", 1e3),
        report.middle((each.memory_bytes for each in measured), scale=2**-20),
        report.middle((each.memory_per_token for each in measured), scale=2**-10),
    ]


def _plot(rounds: Sequence[Round], streams: Sequence[int]) -> None:
    names = list(dict.fromkeys(name for name, _ in rounds[0]))
    groups = {
        f"{count} stream{'s' * (count > 1)}": {
            name: median(_rates(rounds, name, count)) for name in names
        }
        for count in streams
    }
    if systems.LLAMA not in names:
        for count, group in zip(streams, groups.values(), strict=True):
            if count in RECORDED:
                group["llama.cpp server (recorded)"] = RECORDED[count]
    bars(_PLOT, "Streamed over the whole path", groups, "tokens/s")


if __name__ == "__main__":
    main()
