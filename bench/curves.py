"""`python -m bench.curves`: what the service costs as the work grows, through the whole path.

`streams`: as many at once; `prompt`: as many prompt tokens; `context`: tokens that each of eight
streams has behind it; `queue`: jobs of others that wait; `workers`: processes that share the cores.
Prints a table each, and draws it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, TypeAlias

from bench import backlog, plots, service
from bench.measure import Result, Stream, quantile, summarize
from bench.prepared import prepare
from bench.prompts import prompts
from bench.report import machine, table
from bench.text import Text
from shared.configuration import load_settings
from shared.settings import Settings

_EIGHT: Final = 8
_ANSWER_TOKENS: Final = 64
_MANY: Final = 32
"""Streams that workers share."""
_COUNTS: Final = (1, _EIGHT, _MANY)
_PROBES: Final = 40
"""For each length of the queue."""

Lines: TypeAlias = dict[str, list[tuple[float, float]]]


class _Middle(NamedTuple):
    """Medians over some runs; times in seconds."""

    rate: float
    """Tokens a second."""
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float

    @classmethod
    def of(cls, runs: Sequence[Result]) -> _Middle:
        return cls(
            median(run.tokens_per_second for run in runs),
            median(run.ttft_p50 for run in runs),
            median(run.ttft_p99 for run in runs),
            median(run.itl_p50 for run in runs),
            median(run.itl_p99 for run in runs),
        )

    @property
    def ttft(self) -> str:
        return f"{_ms(self.ttft_p50)} / {_ms(self.ttft_p99)}"

    @property
    def itl(self) -> str:
        return f"{_ms(self.itl_p50)} / {_ms(self.itl_p99)}"


class Task(NamedTuple):
    settings: Settings
    points: Sequence[int]
    runs: int
    """Medians over these are reported."""
    images: Path

    def draw(
        self, name: str, title: str, lines: Lines, xlabel: str, ylabel: str, *, logy: bool = False
    ) -> None:
        path = self.images / f"{name}.svg"
        plots.lines(path, title, lines, xlabel, ylabel, logx=True, logy=logy)


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    prepare(settings)
    for name in arguments.curves or CURVES:
        curve, points = CURVES[name]
        task = Task(settings, arguments.points or points, arguments.runs, arguments.images)
        print(f"\n{name}, medians of {task.runs} runs; times in ms; {machine()}")
        curve(task)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description=__doc__)
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"of {', '.join(CURVES)}")
    parser.add_argument("--points", type=int, nargs="+", help="instead of a curve's own")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.curves) - set(CURVES):
        parser.error(f"There is no curve {', '.join(sorted(unknown))}.")
    return arguments


def _streams(task: Task) -> None:
    """Answers of 64 tokens to short questions, all asked at once."""
    runs: dict[int, list[Result]] = {count: [] for count in task.points}
    variables = {"SLOTS": str(max(task.points)), "MAX_PROMPT_TOKENS": "512", "MAX_TOKENS": "256"}
    with _serving(task.settings, variables) as url:
        service.stream_all(url, prompts(max(task.points)), 2)  # each slot has been used once
        for _ in range(task.runs):
            for count, results in runs.items():
                results.append(summarize(service.stream_all(url, prompts(count), _ANSWER_TOKENS)))
    found = {count: _Middle.of(results) for count, results in runs.items()}
    table(
        ["streams", "tokens/s", "of each", "TTFT p50 / p99", "ITL p50 / p99"],
        (
            [f"{n}", f"{each.rate:.0f}", f"{each.rate / n:.1f}", each.ttft, each.itl]
            for n, each in found.items()
        ),
    )
    title = "Answers of 64 tokens, all asked for at once"
    rates: Lines = {"tokens/s": [(n, each.rate) for n, each in found.items()]}
    task.draw("streams-rate", title, rates, "streams", "tokens/s")
    latencies: Lines = {
        "TTFT p50": [(n, 1e3 * each.ttft_p50) for n, each in found.items()],
        "TTFT p99": [(n, 1e3 * each.ttft_p99) for n, each in found.items()],
        "ITL p50": [(n, 1e3 * each.itl_p50) for n, each in found.items()],
        "ITL p99": [(n, 1e3 * each.itl_p99) for n, each in found.items()],
    }
    task.draw("streams-latency", title, latencies, "streams", "ms", logy=True)


def _prompt(task: Task) -> None:
    """The time to the first token of one prompt alone, and of eight that come together."""
    text, number = Text(task.settings), 0
    runs: dict[tuple[int, int], list[Result]] = {}
    with _serving(task.settings, _long(max(task.points))) as url:
        service.stream_all(url, prompts(_EIGHT), 2)
        for run in range(task.runs):
            for tokens in task.points:
                for count in (1, _EIGHT) if run == 0 else (1,):
                    asked = [text.piece(tokens, number + i) for i in range(count)]
                    number += count
                    streams = service.stream_all(url, asked, 2, raw=True)
                    runs.setdefault((tokens, count), []).append(summarize(streams))
    alone = {n: _Middle.of(runs[n, 1]).ttft_p50 for n in task.points}
    together = {n: _Middle.of(runs[n, _EIGHT]) for n in task.points}
    rates: Lines = {
        "alone": [(n, n / seconds) for n, seconds in alone.items()],
        "8 at once": [(n, _EIGHT * n / each.ttft_p99) for n, each in together.items()],
    }
    alone_rate, together_rate = (dict(points) for points in rates.values())
    table(
        ["prompt tokens", "TTFT alone", "tokens/s", "TTFT of 8 at once, p50 / p99", "tokens/s"],
        (
            [
                f"{n:,}",
                _ms(alone[n]),
                f"{alone_rate[n]:.0f}",
                together[n].ttft,
                f"{together_rate[n]:.0f}",
            ]
            for n in task.points
        ),
    )
    ttfts: Lines = {
        "alone": [(n, 1e3 * seconds) for n, seconds in alone.items()],
        "8 at once, the last": [(n, 1e3 * each.ttft_p99) for n, each in together.items()],
    }
    title = "Time to the first token by the prompt's length"
    task.draw("prompt-ttft", title, ttfts, "prompt tokens", "ms", logy=True)
    task.draw("prompt-rate", "Prompt tokens read a second", rates, "prompt tokens", "tokens/s")


def _context(task: Task) -> None:
    """Eight streams that go on behind a text which the worker has in its prefix cache.

    So all begin at once, and each reads keys and values of its own.
    """
    text, number = Text(task.settings), 0
    runs: dict[int, list[Result]] = {tokens: [] for tokens in task.points}
    variables = _long(max(task.points)) | {"PREFIX_CACHE_MB": "1024"}
    with _serving(task.settings, variables) as url:
        service.stream_all(url, prompts(_EIGHT), 2)
        for _ in range(task.runs):
            for tokens, results in runs.items():
                piece = text.piece(tokens, number)
                number += 1
                service.stream_all(url, [piece], 1, raw=True)
                streams = service.stream_all(url, [piece] * _EIGHT, _ANSWER_TOKENS, raw=True)
                results.append(summarize(behind_all_beginnings(streams)))
    found = {n: _Middle.of(results) for n, results in runs.items()}
    table(
        ["tokens behind each of 8 streams", "ITL p50 / p99", "tokens/s"],
        ([f"{n:,}", each.itl, f"{each.rate:.0f}"] for n, each in found.items()),
    )
    itls: Lines = {
        "p50": [(n, 1e3 * each.itl_p50) for n, each in found.items()],
        "p99": [(n, 1e3 * each.itl_p99) for n, each in found.items()],
    }
    title = "Inter-token latency of 8 streams by the context behind them"
    task.draw("context-itl", title, itls, "tokens of context", "ms")


def behind_all_beginnings(streams: Sequence[Stream]) -> list[Stream]:
    """What came after all had begun, each event with its stream's mean number of tokens."""
    begun = max(stream.arrivals[0] for stream in streams)
    parts = []
    for stream in streams:
        later = [arrival for arrival in stream.arrivals if arrival >= begun]
        if len(later) < 2:
            sys.exit("A stream had ended before all had begun: is there no prefix cache?")
        tokens = round(len(later) * stream.tokens / len(stream.arrivals))
        parts.append(Stream(started=begun, tokens=tokens, arrivals=later))
    return parts


def _queue(task: Task) -> None:
    """Requests of one client while another one's jobs wait."""
    found = {
        depth: {
            f"{what}, {label}": 1e3 * quantile(seconds, q)
            for what, seconds in (("submit", waits.submits), ("first token", waits.ttfts))
            for label, q in (("p50", 0.5), ("p99", 0.99))
        }
        for depth, waits in backlog.measure(sorted(task.points), _PROBES)
    }
    names = list(next(iter(found.values())))
    table(
        ["jobs that wait", *names],
        ([f"{n:,}", *(f"{value:.1f}" for value in each.values())] for n, each in found.items()),
    )
    lines: Lines = {name: [(n, each[name]) for n, each in found.items()] for name in names}
    task.draw("queue-wait", "A request behind another client's queue", lines, "jobs waiting", "ms")


def _workers(task: Task) -> None:
    """All are started before anything is measured, and measured in turn."""
    cores = os.cpu_count() or 1
    names = {n: f"{n} x {max(1, cores // n)}" for n in task.points}
    runs: dict[tuple[int, int], list[Result]] = {}
    with ExitStack() as stack:
        urls = {}
        for workers in task.points:
            variables = {
                "WORKERS": str(workers),
                "THREADS": str(max(1, cores // workers)),
                "SLOTS": str(-(-_MANY // workers)),
            }
            urls[workers] = stack.enter_context(_serving(task.settings, variables))
            service.stream_all(urls[workers], prompts(_MANY), 8)
        for _ in range(task.runs):
            for count in _COUNTS:
                for workers, url in urls.items():
                    streams = service.stream_all(url, prompts(count), _ANSWER_TOKENS)
                    runs.setdefault((workers, count), []).append(summarize(streams))
    found = {key: _Middle.of(results) for key, results in runs.items()}
    table(
        ["workers x threads", "streams", "tokens/s", "TTFT p50 / p99", "ITL p50 / p99"],
        (
            [names[workers], f"{count}", f"{each.rate:.0f}", each.ttft, each.itl]
            for (workers, count), each in found.items()
        ),
    )
    groups = {
        f"{count} streams": {name: found[n, count].rate for n, name in names.items()}
        for count in _COUNTS
    }
    title = f"Workers x threads on {cores} cores"
    plots.bars(task.images / "workers-rate.svg", title, groups, "tokens/s")


def _long(longest: int) -> dict[str, str]:
    """Settings for eight streams with prompts of so many tokens."""
    return {"SLOTS": f"{_EIGHT}", "MAX_PROMPT_TOKENS": f"{longest + 64}", "MAX_TOKENS": "256"}


def _serving(settings: Settings, variables: dict[str, str]) -> AbstractContextManager[str]:
    return service.running_service(settings, service.free_port(), **variables)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds < 0.1 else 0}f}"


CURVES: Final[dict[str, tuple[Callable[[Task], None], Sequence[int]]]] = {
    "streams": (_streams, [2**n for n in range(8)]),
    "prompt": (_prompt, [2**n for n in range(4, 13)]),
    "context": (_context, [2**n for n in range(6, 13)]),
    "queue": (_queue, [0, 10, 100, 1000, 10_000]),
    "workers": (_workers, [1, 2]),
}


if __name__ == "__main__":
    main()
