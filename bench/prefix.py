"""`python -m bench.prefix`: what a prompt costs whose beginning the worker has computed before.

Through the whole service. In each round a new beginning of `--tokens` tokens is sent twice, with
another end each time; what counts is the ratio of the two times to the first token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import urllib.request
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from bench import service
from bench.measure import Stream, quantile
from bench.prompts import prompts
from shared.catalog import load_catalog
from shared.configuration import load_settings
from worker.model_files import ensure_model

_WORDS: Final = [
    "river",
    "stone",
    "light",
    "paper",
    "winter",
    "garden",
    "signal",
    "copper",
    "morning",
    "letter",
]
_ENDS: Final = ("What is this about?", "Which word comes most often?")


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    ensure_model(load_catalog(settings)[settings.default_model], settings, lambda *_: None)
    dice = random.Random(arguments.seed)
    size = {"PREFIX_CACHE_MB": str(settings.prefix_cache_mb)}
    with service.running_service(settings, service.free_port(), **size) as url:
        service.stream_all(url, prompts(2), 8)  # has computed once before it counts
        rounds = []
        for _ in range(arguments.rounds):
            beginning = _beginning(url, arguments.tokens, dice)
            rounds.append([_ask(url, f"{beginning} {end}") for end in _ENDS])
        _report(rounds)
        if arguments.texts:
            _report_texts(url, arguments.texts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.prefix", description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000, help="that both prompts begin with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the random words")
    parser.add_argument(
        "--texts",
        type=int,
        default=0,
        help="KiB: also stream while texts of this size are tokenized without a pause",
    )
    return parser.parse_args()


def _beginning(url: str, tokens: int, dice: random.Random) -> str:
    """Random words that are so many tokens, give or take one."""
    words: list[str] = []
    while (missing := tokens - _count(url, " ".join(words) or "a")) > 0:
        words += dice.choices(_WORDS, k=max(1, missing // 2))
    return " ".join(words)


def _count(url: str, text: str) -> int:
    count: int = _post(url, "/tokenize", {"prompt": text, "raw": True})["count"]
    return count


def _post(url: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def _ask(url: str, prompt: str) -> Stream:
    return service.stream_all(url, [prompt], 4, raw=True)[0]


def _report(rounds: Sequence[Sequence[Stream]]) -> None:
    print("\n| prompt tokens | cached | TTFT first, ms | second, ms | ratio |")
    print("|---|---|---|---|---|")
    for first, second in rounds:
        print(
            f"| {second.prompt_tokens} | {second.cached_tokens} | {first.ttft * 1e3:.0f} "
            f"| {second.ttft * 1e3:.0f} | {second.ttft / first.ttft:.1%} |"
        )
    ratios = [second.ttft / first.ttft for first, second in rounds]
    print(f"\nmedian ratio {median(ratios):.1%}, worst {max(ratios):.1%}")


def _report_texts(url: str, size: int) -> None:
    """Inter-token latency alone and while `/tokenize` has a text at all times."""
    text = " ".join(random.Random(0).choices(_WORDS, k=size * 1024 // 7))[: size * 1024]
    print(f"\n| meanwhile | ITL p50, ms | p99, ms | most, ms |  texts of {size} KiB |")
    print("|---|---|---|---|---|")
    for name, hammered in (("nothing", False), ("/tokenize", True), ("nothing", False)):
        streams, answered = asyncio.run(_stream_beside(url, text if hammered else ""))
        pauses = [pause for stream in streams for pause in stream.pauses]
        print(
            f"| {name} | {quantile(pauses, 0.5) * 1e3:.0f} | {quantile(pauses, 0.99) * 1e3:.0f} "
            f"| {max(pauses) * 1e3:.0f} | {answered} |"
        )


async def _stream_beside(url: str, text: str) -> tuple[list[Stream], int]:
    """Two streams; beside them `text` is sent again and again, unless it is empty."""
    answered = 0

    async def hammer() -> None:
        nonlocal answered
        while text:
            await asyncio.to_thread(_count, url, text)
            answered += 1

    hammering = asyncio.create_task(hammer())
    bodies = [json.dumps({"prompt": p, "max_tokens": 96, "temperature": 0}) for p in prompts(2)]
    streams = await asyncio.gather(*(service.stream(url, body.encode()) for body in bodies))
    text = ""
    await hammering
    return streams, answered


if __name__ == "__main__":
    main()
