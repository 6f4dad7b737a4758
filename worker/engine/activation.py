"""Activation functions a few rows at a time, so that a row rounds alike wherever it stands.

torch shares an elementwise operation out among threads by the number of elements. Where a
share ends amid a vector, a scalar loop computes the rest, and its `exp` and `tanh` round
differently. What is small enough stays on one thread and has no such end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS

from worker.engine.cache import ROWS

_UNSHARED: Final = 16384
"""Elements up to which torch keeps every activation function on one thread."""


def in_strips(model: nn.Module) -> None:
    """Let the activation functions of `model` compute strips of rows, one after the other."""
    kinds = {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()}
    for module in model.modules():
        if type(module) in kinds:
            module.forward = partial(_strips, module.forward)


def _strips(function: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    rows = states.flatten(0, -2)
    strip = _UNSHARED // rows.shape[1] // ROWS * ROWS or 1
    if len(rows) <= strip:
        return function(states)
    return torch.cat([function(part) for part in torch.split(rows, strip)]).view(states.shape)
