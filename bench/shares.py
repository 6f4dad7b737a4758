"""`python -m bench.shares`: where the processor's time goes while 32 answers are streamed.

By process, of the whole service; and by function, of the engine alone in this process.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections import defaultdict
from typing import Any, Final

import psutil

from bench import engine, service
from bench.measure import Stream, summarize
from bench.prepared import prepare
from bench.prompts import prompts
from bench.report import machine, table
from bench.workload import at_once
from shared.configuration import load_settings
from shared.settings import Settings

_ROLES: Final = ("worker", "api", "valkey-server", "up")
"""Names of programs or words of command lines, looked for in this order."""
_CLIENT: Final = "client (this benchmark)"


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    prepare(settings)
    asked = prompts(arguments.streams)
    print(machine())
    _report_processes(settings, asked, arguments.tokens)
    _report_functions(settings, asked, arguments.tokens, arguments.functions)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.shares", description=__doc__)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="max_tokens of each stream")
    parser.add_argument("--functions", type=int, default=15, help="rows of the second table")
    return parser.parse_args()


def _report_processes(settings: Settings, asked: list[str], max_tokens: int) -> None:
    with service.running_service(settings, service.free_port()) as url:
        service.stream_all(url, asked, 8)  # all has been computed once
        before = _processor_seconds()
        streams = service.stream_all(url, asked, max_tokens)
        spent = {role: after - before[role] for role, after in _processor_seconds().items()}
    result, tokens, whole = summarize(streams), _tokens(streams), sum(spent.values())
    print(f"{len(asked)} streams, {tokens} tokens, {result.tokens_per_second:.0f} tokens/s")
    table(
        ["process", "CPU ms a token", "share"],
        (
            [role, f"{seconds / tokens * 1e3:.3f}", f"{seconds / whole:.1%}"]
            for role, seconds in sorted(spent.items(), key=lambda item: -item[1])
        ),
    )


def _processor_seconds() -> dict[str, float]:
    """User's and system's, since each process began, by role."""
    own = psutil.Process()
    found = defaultdict(float, {_CLIENT: _seconds_of(own)})
    for process in own.children(recursive=True):
        words = {process.name(), *process.cmdline()}
        found[next((role for role in _ROLES if role in words), "others")] += _seconds_of(process)
    return found


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _report_functions(
    settings: Settings, asked: list[str], max_tokens: int, functions: int
) -> None:
    model = engine.load(settings)
    engine.run(model, at_once(asked, 8))
    profile = cProfile.Profile()
    profile.enable()
    streams = engine.run(model, at_once(asked, max_tokens))
    profile.disable()
    stats: Any = pstats.Stats(profile)
    tokens = _tokens(streams)
    print(
        f"\nThe engine alone, its thread under cProfile: {stats.total_tt / tokens * 1e3:.3f} ms "
        "a token, of which"
    )
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:functions]
    table(
        ["function, without what it calls", "calls a token", "ms a token", "share"],
        (
            [
                f"`{'/'.join(file.split('/')[-2:])}:{line} {name}`" if line else f"`{name}`",
                f"{calls / tokens:.2f}",
                f"{seconds / tokens * 1e3:.3f}",
                f"{seconds / stats.total_tt:.1%}",
            ]
            for (file, line, name), (_, calls, seconds, *_) in rows
        ),
    )


def _tokens(streams: list[Stream]) -> int:
    return sum(stream.tokens for stream in streams)


if __name__ == "__main__":
    main()
