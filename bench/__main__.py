"""`make bench`: the service beside its own engine, in one run, as a table.

Both measure in turn, so that a machine that slows down slows both; what counts is ratios.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from statistics import median

from rich.console import Console

from bench import engine, service
from bench.measure import Result, middle, summarize
from bench.prompts import prompts
from shared.catalog import load_catalog
from shared.settings import load_settings
from worker.model_files import ensure_model
from worker.models import LoadedModel


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    console = Console()
    for name in settings.models:
        ensure_model(load_catalog(settings)[name], settings, lambda *_: None)
    model = engine.load(settings)
    with service.running_service(settings, _free_port()) as url:
        service.stream_all(url, prompts(2), 8)  # both have computed once before it counts
        engine.stream_all(model, prompts(2), 8)
        rows: list[tuple[Result, Result]] = []
        for count in arguments.streams:
            outside, inside = [], []
            for run in range(1, arguments.runs + 1):
                console.print(f"{count} streams, run {run} of {arguments.runs} ...")
                asked = prompts(count)
                outside.append(summarize(service.stream_all(url, asked, arguments.tokens)))
                inside.append(summarize(engine.stream_all(model, asked, arguments.tokens)))
            rows.append((middle(outside), middle(inside)))
        console.print("time to first token, one request after the other ...")
        added = _added_by_the_queue(url, model, arguments.probes)
    _report(rows, added, arguments.tokens)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="max_tokens of each stream")
    parser.add_argument("--runs", type=int, default=3, help="the middle one is reported")
    parser.add_argument("--probes", type=int, default=30, help="pairs for the queue's cost")
    return parser.parse_args()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _added_by_the_queue(url: str, model: LoadedModel, probes: int) -> tuple[float, float]:
    """Median TTFT of the service and of the engine, in seconds, measured in turn."""
    outside, inside = [], []
    for prompt in prompts(probes):
        outside.append(service.stream_all(url, [prompt], 2)[0].ttft)
        inside.append(engine.stream_all(model, [prompt], 2)[0].ttft)
    return median(outside), median(inside)


def _report(rows: Sequence[tuple[Result, Result]], ttfts: tuple[float, float], tokens: int) -> None:
    """Print a Markdown table, ready for docs/benchmarks.md."""
    first = rows[0][0].tokens_per_second
    print(f"\n{tokens} tokens a stream; times in milliseconds, p50 / p99.\n")
    print("| streams | tokens/s | x one stream | engine alone | share | TTFT | ITL |")
    print("|---|---|---|---|---|---|---|")
    for outside, inside in rows:
        share = outside.tokens_per_second / inside.tokens_per_second
        print(
            f"| {outside.streams} | {outside.tokens_per_second:.0f} "
            f"| {outside.tokens_per_second / first:.1f} | {inside.tokens_per_second:.0f} "
            f"| {share:.0%} | {_ms(outside.ttft_p50)} / {_ms(outside.ttft_p99)} "
            f"| {_ms(outside.itl_p50)} / {_ms(outside.itl_p99)} |"
        )
    service_ttft, engine_ttft = ttfts
    print(
        f"\nTTFT p50 of one request: service {service_ttft * 1e3:.1f}, engine "
        f"{engine_ttft * 1e3:.1f}; the way through HTTP, queue and Redis adds "
        f"{(service_ttft - engine_ttft) * 1e3:.1f} ms."
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}"


if __name__ == "__main__":
    main()
