"""The same engine with nothing around it: no HTTP, no queue, no Redis.

`python -m bench.engine` serves it to `bench.drivers.engine`, over its standard streams: a process
of its own, which is frozen while others are measured.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import msgspec
import torch

from bench.measure import Stream
from bench.workload import Ask
from shared.catalog import load_catalog
from shared.configuration import load_settings
from shared.job import GenerationRequest, SamplingParams
from shared.settings import Settings
from worker.engine.base import EngineRequest
from worker.models import LoadedModel, transformers_loader


class Order(msgspec.Struct):
    """What `bench.drivers.engine` sends: the arguments of `Driver.run`."""

    asks: list[Ask]
    concurrency: int | None
    seconds: float | None


def load(settings: Settings, *, prefix_cache: bool = False) -> LoadedModel:
    """The default model. Without a prefix cache repeated prompts cost what new ones do."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    if not prefix_cache:
        settings = settings.model_copy(update={"prefix_cache_mb": 0})
    return transformers_loader(load_catalog(settings), settings)(settings.default_model)


def run(
    model: LoadedModel,
    asks: Sequence[Ask],
    *,
    concurrency: int | None = None,
    seconds: float | None = None,
) -> list[Stream]:
    """`Driver.run`, prompts as text like the service gets them.

    A request that comes during a step waits for its end, and for a free slot.
    """
    engine, room = model.engine, concurrency or len(asks)
    streams: dict[str, Stream] = {}
    running: set[str] = set()
    waiting = list(reversed(asks))
    begin = time.perf_counter()
    while True:
        now = time.perf_counter()
        if seconds is not None and now - begin >= seconds:
            waiting.clear()
        while waiting and len(running) < room and engine.free_slots:
            if begin + waiting[-1].at > now:
                break
            ask = waiting.pop()
            id_ = str(len(streams))
            due = begin + ask.at
            prompt_tokens = _add(model, id_, ask)
            streams[id_] = Stream(
                now if concurrency else due, prompt_tokens=prompt_tokens, failed=True
            )
            running.add(id_)
        if not running and not waiting:
            return list(streams.values())
        if not running:
            time.sleep(max(0.0, begin + waiting[-1].at - time.perf_counter()))
            continue
        for output in engine.step():
            stream = streams[output.id]
            stream.tokens += len(output.ids)
            stream.cached_tokens += output.cached_tokens
            if output.text:
                stream.arrivals.append(time.perf_counter())
            if output.finish_reason is not None:
                stream.arrivals = stream.arrivals or [time.perf_counter()]
                stream.failed = output.finish_reason == "error"
                running.discard(output.id)


def _add(model: LoadedModel, id_: str, ask: Ask) -> int:
    """Begin a request; returns the prompt's tokens."""
    params = SamplingParams(max_tokens=ask.max_tokens, temperature=0, seed=0)
    request = GenerationRequest(
        id=id_,
        model=model.name,
        prompt=ask.prompt,
        params=params,
        raw=ask.raw,
        created_at=time.time(),
    )
    prompt_ids = model.prompts.encode(request)
    model.engine.add(EngineRequest(id_, prompt_ids, params))
    return len(prompt_ids)


def serve(model: LoadedModel, orders: Iterable[bytes], answers: BinaryIO) -> None:
    """Run each order, a line of JSON, and answer with a line of streams."""
    for line in orders:
        order = msgspec.json.decode(line, type=Order)
        streams = run(model, order.asks, concurrency=order.concurrency, seconds=order.seconds)
        answers.write(msgspec.json.encode(streams) + b"\n")
        answers.flush()


def main() -> None:
    orders, answers = sys.stdin.buffer, _own_stdout()
    serve(load(load_settings(), prefix_cache=True), orders, answers)


def _own_stdout() -> BinaryIO:
    """What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
