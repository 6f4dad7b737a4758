"""`python -m bench.roofline`: the most tokens a second that this machine allows, and what is had.

A step reads all weights once, whatever the number of streams, and each stream's keys and values;
and it computes with each weight once for each stream. Both are counted from the model's
configuration, and set against what the machine reads and computes in loops that do nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, get_args

import torch
from transformers import AutoConfig

from bench import engine
from bench.curves import behind_all_beginnings
from bench.measure import summarize
from bench.prepared import prepare
from bench.prompts import prompts
from bench.report import machine as described
from bench.report import table
from bench.workload import at_once
from shared.catalog import load_catalog
from shared.configuration import load_settings
from shared.settings import Settings

_READ_BYTES: Final = 2**29
"""Far more than any cache holds."""
_SIDE: Final = 2048
"""Of the square matrices that are multiplied."""
_REPEATS: Final = 7
_KV_ITEM: Final = {"float32": 4, "int8": 2}
"""Bytes of a number among keys and values."""
_WEIGHT_ITEM: Final = {"float32": 4, "int8": 1}


class Shape(NamedTuple):
    """What matters of a Llama-like model."""

    weights: int
    """Numbers in its matrices, each read in every step; the embedding once, for the logits."""
    kv_numbers: int
    """Among keys and values, for each token of context."""
    attention_operations: int
    """For each token of context, for each new token."""
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        hidden, layers = config.hidden_size, config.num_hidden_layers
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or hidden // heads
        attention = hidden * size * (2 * heads + 2 * kv_heads)
        layer = attention + 3 * hidden * config.intermediate_size
        return cls(
            weights=layers * layer + config.vocab_size * hidden,
            kv_numbers=2 * layers * kv_heads * size,
            attention_operations=4 * layers * heads * size,
            vocabulary=config.vocab_size,
        )

    def step_bytes(self, streams: int, context: int, dtype: str) -> int:
        """Read and written by one step; logits are written and read again, in float32."""
        weights = self.weights * _WEIGHT_ITEM[dtype]
        return weights + streams * (
            context * self.kv_numbers * _KV_ITEM[dtype] + 2 * 4 * self.vocabulary
        )

    def step_operations(self, streams: int, context: int) -> int:
        """Multiplications and additions of one step."""
        return streams * (2 * self.weights + context * self.attention_operations)


class Machine(NamedTuple):
    bytes_per_second: float
    operations_per_second: dict[str, float]
    """By dtype; a dtype is missing where torch can't multiply in it."""


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    prepare(settings)
    spec = load_catalog(settings)[settings.default_model]
    shape = Shape.of(AutoConfig.from_pretrained(spec.folder(settings), local_files_only=True))
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    machine = measure_machine()
    _report_machine(machine)
    offered = get_args(Settings.model_fields["dtype"].annotation)
    had = {
        dtype: _rates(settings.model_copy(update={"dtype": dtype}), arguments)
        for dtype in machine.operations_per_second
        if dtype in offered
    }
    _report_bounds(shape, machine, arguments.context, had)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="max_tokens of each stream")
    parser.add_argument("--context", type=int, default=80, help="tokens behind a stream, counted")
    parser.add_argument("--runs", type=int, default=3, help="of the engine, the best is reported")
    return parser.parse_args()


def measure_machine() -> Machine:
    """With torch's threads, the best of several runs each."""
    numbers = torch.ones(_READ_BYTES // 4)
    read = _READ_BYTES / _best(numbers.sum)
    floats = torch.randn(_SIDE, _SIDE)
    operations = 2 * _SIDE**3
    rates = {"float32": operations / _best(lambda: floats @ floats)}
    integers = torch.randint(-127, 128, (_SIDE, _SIDE), dtype=torch.int8)
    try:
        rates["int8"] = operations / _best(lambda: torch._int_mm(integers, integers))  # noqa: SLF001
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        print(f"torch does not multiply int8 on this machine: {error}")
    return Machine(read, rates)


def _best(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _rates(settings: Settings, arguments: argparse.Namespace) -> dict[int, float]:
    """Tokens a second of the engine in this process, once all streams have begun."""
    model = engine.load(settings)
    engine.run(model, at_once(prompts(max(arguments.streams)), 8))
    return {
        count: max(
            summarize(
                behind_all_beginnings(engine.run(model, at_once(prompts(count), arguments.tokens)))
            ).tokens_per_second
            for _ in range(arguments.runs)
        )
        for count in arguments.streams
    }


def _report_machine(machine: Machine) -> None:
    print(described())
    print(f"\n{torch.get_num_threads()} threads, the best of {_REPEATS} runs each:\n")
    print(f"- reads {machine.bytes_per_second / 1e9:.1f} GB/s")
    for dtype, rate in machine.operations_per_second.items():
        print(f"- computes {rate / 1e9:,.0f} billion {dtype} operations a second")


def _report_bounds(
    shape: Shape, machine: Machine, context: int, had: dict[str, dict[int, float]]
) -> None:
    print(f"\nA step with {context} tokens behind each stream:")
    head = ["dtype", "streams", "MB", "reading, ms", "million operations", "computing, ms"]
    rows = []
    for dtype, rates in had.items():
        for streams, rate in rates.items():
            size = shape.step_bytes(streams, context, dtype)
            operations = shape.step_operations(streams, context)
            reading = size / machine.bytes_per_second
            computing = operations / machine.operations_per_second[dtype]
            bound = streams / max(reading, computing)
            rows.append(
                [
                    dtype,
                    f"{streams}",
                    f"{size / 1e6:.0f}",
                    f"{reading * 1e3:.2f}",
                    f"{operations / 1e6:,.0f}",
                    f"{computing * 1e3:.2f}",
                    f"{bound:.0f}",
                    f"{rate:.0f}",
                    f"{rate / bound:.0%}",
                ]
            )
    table([*head, "bound, tokens/s", "engine, tokens/s", "of the bound"], rows)


if __name__ == "__main__":
    main()
