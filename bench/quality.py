"""`python -m bench.quality`: how far the served arithmetic is from float32, on a text at hand.

The text is the documentation of Python's own topics (`pydoc_data.topics`), cut into windows with
no context before them. Both models see the same tokens; of each window every token but the first
is predicted.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from bench.report import machine, table
from bench.text import Text
from shared.catalog import load_catalog
from shared.configuration import load_settings
from shared.settings import Settings
from worker.engine.cache import Step
from worker.engine.native.background import kernels_of, prepare
from worker.engine.native.forward import NativeForward, columns_of
from worker.engine.native.weights import NativeWeights
from worker.model_files import ensure_model
from worker.models import device_and_dtype
from worker.paths import in_int8

_MARGINS: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""How far float32's first token is before its second, as a difference of logits."""

Logits: TypeAlias = Callable[[Sequence[int]], Tensor]
"""What follows each of n tokens that begin a text: float [n, vocabulary]."""


@dataclass
class Comparison:
    """Of what is served with what is right, token for token."""

    right_loss: float = 0.0
    """Sum of -ln p of what came next."""
    served_loss: float = 0.0
    divergence: float = 0.0
    """Sum of the Kullback-Leibler divergences from right to served, in nats."""
    margins: list[Tensor] = field(default_factory=list)
    equal: list[Tensor] = field(default_factory=list)

    def add(self, right: Tensor, served: Tensor, following: Tensor) -> None:
        """`right` and `served`: logits, float [n, vocabulary]; `following`: int64 [n]."""
        right, served = right.float().log_softmax(-1), served.float().log_softmax(-1)
        here = torch.arange(len(following))
        self.right_loss -= right[here, following].double().sum().item()
        self.served_loss -= served[here, following].double().sum().item()
        self.divergence += (right.exp() * (right - served)).double().sum().item()
        two = right.topk(2)
        self.margins.append(two.values[:, 0] - two.values[:, 1])
        self.equal.append(two.indices[:, 0] == served.argmax(-1))

    @property
    def count(self) -> int:
        return sum(len(part) for part in self.equal)

    @property
    def right_perplexity(self) -> float:
        return math.exp(self.right_loss / self.count)

    @property
    def served_perplexity(self) -> float:
        return math.exp(self.served_loss / self.count)

    def agreement(self, margin: float) -> tuple[float, float]:
        """Share of equal first tokens where the margin is at least so large; share of these."""
        clear = torch.cat(self.margins) >= margin
        equal = torch.cat(self.equal)[clear]
        return equal.double().mean().item(), clear.double().mean().item()


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    settings.prepare_data_dir()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    spec = load_catalog(settings)[settings.default_model]
    ensure_model(spec, settings, lambda *_: None)
    ids = Text(settings).ids[: arguments.tokens]
    if len(ids) < arguments.tokens:
        sys.exit(f"The text has only {len(ids):,} tokens.")
    right_of, served_of = float32(settings), served(settings)
    comparison, began = Comparison(), time.monotonic()
    for start in range(0, len(ids), arguments.window):
        window = ids[start : start + arguments.window]
        if len(window) < 2:
            break
        following = torch.tensor(window[1:])
        comparison.add(right_of(window)[:-1], served_of(window)[:-1], following)
        if sys.stderr.isatty():
            done, seconds = start + len(window), time.monotonic() - began
            print(f"\r{done:,} of {len(ids):,} tokens, {seconds:.0f} s", end="", file=sys.stderr)
    _report(comparison, settings, len(ids), arguments.window)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--window", type=int, default=512, help="tokens with a fresh context each")
    return parser.parse_args()


def float32(settings: Settings) -> Logits:
    """transformers' own forward pass, which knows nothing of ours."""
    return _plain(settings, torch.float32)


def served(settings: Settings) -> Logits:
    """The arithmetic that workers use with these settings."""
    device, dtype = device_and_dtype(settings)
    model = _model(settings, dtype)
    if not in_int8(settings, model.config, device):
        return _plain(settings, dtype)
    kernels = prepare(kernels_of(settings)).result()
    columns = columns_of(model.config.max_position_embeddings)
    weights = NativeWeights(kernels, model, columns=columns, threads=torch.get_num_threads())
    forward = NativeForward(weights, slots=1)
    return lambda ids: forward([Step(row=0, start=0, tokens=list(ids), wanted=len(ids))])


def _model(settings: Settings, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        load_catalog(settings)[settings.default_model].folder(settings),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
    )


def _plain(settings: Settings, dtype: torch.dtype) -> Logits:
    model = _model(settings, dtype)

    @torch.inference_mode()
    def logits_of(ids: Sequence[int]) -> Tensor:
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits

    return logits_of


def _report(found: Comparison, settings: Settings, tokens: int, window: int) -> None:
    """Print Markdown, ready for docs/performance-scaling.md."""
    ratio = found.served_perplexity / found.right_perplexity
    overall, _ = found.agreement(0.0)
    print(
        f"\n{settings.default_model}, dtype {settings.dtype}, {tokens:,} tokens of "
        f"pydoc_data.topics (Python {platform.python_version()}) in windows of {window}; "
        f"{found.count:,} predictions; {machine()}"
    )
    table(
        ["", "float32", "served", ""],
        (
            [
                "perplexity",
                f"{found.right_perplexity:.4f}",
                f"{found.served_perplexity:.4f}",
                f"x {ratio:.4f}",
            ],
            ["greedy next tokens that are equal", "", "", f"{overall:.2%}"],
            ["divergence, nats a token", "", "", f"{found.divergence / found.count:.5f}"],
        ),
    )
    agreements = ((margin, *found.agreement(margin)) for margin in _MARGINS)
    table(
        ["where float32's first leads its second by", "share of tokens", "equal"],
        (
            [f"{margin:g} or more", f"{share:.1%}", f"{equal:.2%}"]
            for margin, equal, share in agreements
        ),
    )


if __name__ == "__main__":
    main()
