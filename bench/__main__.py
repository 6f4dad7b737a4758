"""`make bench`: the service beside its own engine, in one run, as a table.

Everything is measured in turn and in rounds, so that a machine that slows down slows all of
it; what counts is ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TypeAlias

from rich.console import Console

from bench import engine, service
from bench.measure import Result, summarize
from bench.prompts import prompts
from shared.catalog import load_catalog
from shared.configuration import load_settings
from worker.model_files import ensure_model
from worker.models import LoadedModel

Round: TypeAlias = dict[int, tuple[Result, Result]]
"""Service and engine, by the number of streams."""


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    console = Console()
    for name in settings.models:
        ensure_model(load_catalog(settings)[name], settings, lambda *_: None)
    model = engine.load(settings)
    with service.running_service(settings, service.free_port()) as url:
        service.stream_all(url, prompts(2), 8)  # both have computed once before it counts
        engine.stream_all(model, prompts(2), 8)
        rounds: list[Round] = []
        for number in range(1, arguments.rounds + 1):
            console.print(f"round {number} of {arguments.rounds}: {arguments.streams} streams ...")
            rounds.append(
                {
                    count: (
                        summarize(service.stream_all(url, prompts(count), arguments.tokens)),
                        summarize(engine.stream_all(model, prompts(count), arguments.tokens)),
                    )
                    for count in arguments.streams
                }
            )
        console.print("time to first token, one request after the other ...")
        added = _added_by_the_queue(url, model, arguments.probes)
    _report(rounds, added, arguments.tokens)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="max_tokens of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="medians over these are reported")
    parser.add_argument("--probes", type=int, default=60, help="pairs for the queue's cost")
    return parser.parse_args()


def _added_by_the_queue(url: str, model: LoadedModel, probes: int) -> tuple[float, float]:
    """Median TTFT of the service and of the engine, in seconds, measured in turn.

    On prompts of a few tokens: what is added does not depend on the prompt, and the less
    there is to compute, the less the machine's moods cover it.
    """
    outside, inside = [], []
    for number in range(probes):
        asked = [f"Number {number}:"]
        outside.append(service.stream_all(url, asked, 2, raw=True)[0].ttft)
        inside.append(engine.stream_all(model, asked, 2, raw=True)[0].ttft)
    return median(outside), median(inside)


def _report(rounds: Sequence[Round], ttfts: tuple[float, float], tokens: int) -> None:
    """Print a Markdown table, ready for docs/benchmarks.md. Ratios are taken within a round."""
    one = min(rounds[0])
    print(f"\n{len(rounds)} rounds, {tokens} tokens a stream; times in ms, p50 / p99.\n")
    print("| streams | tokens/s | x one stream | of the engine alone | TTFT | ITL |")
    print("|---|---|---|---|---|---|")
    for count in rounds[0]:
        outside = [results[count][0] for results in rounds]
        rates = [result.tokens_per_second for result in outside]
        gains = [results[count][0] / results[one][0] for results in rounds]
        shares = [results[count][0] / results[count][1] for results in rounds]
        print(
            f"| {count} | {median(rates):.0f} | {median(gains):.1f} | {median(shares):.0%} "
            f"| {_ms(result.ttft_p50 for result in outside)} / "
            f"{_ms(result.ttft_p99 for result in outside)} "
            f"| {_ms(result.itl_p50 for result in outside)} / "
            f"{_ms(result.itl_p99 for result in outside)} |"
        )
    service_ttft, engine_ttft = ttfts
    print(
        f"\nTTFT p50 of one short request: service {service_ttft * 1e3:.1f} ms, engine alone "
        f"{engine_ttft * 1e3:.1f} ms; HTTP, queue and Redis add "
        f"{(service_ttft - engine_ttft) * 1e3:.1f} ms."
    )


def _ms(seconds: Iterable[float]) -> str:
    return f"{median(seconds) * 1e3:.0f}"


if __name__ == "__main__":
    main()
