"""Logits of two ways to compute a model, side by side."""

import random
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from worker.engine.cache import Step
from worker.engine.forward import Forward

CLOSE: Final = 0.99
"""Least cosine between logits in int8 and in float32, of the tiny models that our kernels take.
One that lacks a bias or a norm, or has a window of one token more or less, falls below 0.95
somewhere in a text of 80 tokens."""


def tokens(count: int, seed: int) -> list[int]:
    """A text for tiny models."""
    dice = random.Random(seed)
    return [dice.randrange(3, 256) for _ in range(count)]


def in_float(model: Any, ids: Sequence[int]) -> Tensor:
    """The model's own logits behind each token."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits


def one_by_one(forward: Forward, ids: Sequence[int]) -> Tensor:
    """Logits behind each token, one token at a time."""
    return torch.cat([forward([Step(0, i, [token])]).clone() for i, token in enumerate(ids)])


def closeness(some: Tensor, others: Tensor) -> float:
    """Cosine where two texts' logits are least alike."""
    assert torch.isfinite(some).all()
    return float(torch.nn.functional.cosine_similarity(some, others).min())


def assert_plausible(model: Any, prompt: Sequence[int], said: Sequence[int]) -> None:
    """Each token is one that the model itself, in float32, could have said greedily.

    Int8 moves a logit by about a tenth of their deviation; a lost or a repeated token leaves
    others than the likeliest ones, which stand several deviations above the rest.
    """
    logits = in_float(model, [*prompt, *said][:-1])[len(prompt) - 1 :]
    short = logits.max(1).values - logits[range(len(said)), list(said)]
    assert float((short / logits.std(1)).max()) < 0.8
