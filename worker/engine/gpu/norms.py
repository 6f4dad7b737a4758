"""Norms as the one operation that torch has for them: written out, each is seven to launch."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

_TOLERANCE: Final = 2.0**-6
"""Relative: in half precision both round, but not at the same places."""


def in_one(model: nn.Module) -> None:
    """Let the RMS norms of `model` be computed so, where that gives what they give."""
    for module in _norms(model):
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            # Some models scale by how much more than one.
            for scale in (weight.detach(), 1 + weight.detach()):
                norm = partial(
                    nn.functional.rms_norm,
                    normalized_shape=list(weight.shape),
                    weight=scale,
                    eps=getattr(module, "variance_epsilon", None) or getattr(module, "eps", None),
                )
                if _alike(module, norm, weight):
                    module.forward = norm
                    break


def as_written(model: nn.Module) -> None:
    """Undo it."""
    for module in _norms(model):
        vars(module).pop("forward", None)


def _norms(model: nn.Module) -> list[nn.Module]:
    return [each for each in model.modules() if type(each).__name__.endswith("RMSNorm")]


def _alike(module: nn.Module, norm: partial[Tensor], weight: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, *weight.shape, generator=generator).to(weight.device, weight.dtype)
    with torch.inference_mode():
        expected, computed = module(states), norm(states)
    return torch.allclose(computed, expected, rtol=_TOLERANCE, atol=_TOLERANCE / 16)
