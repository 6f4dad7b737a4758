"""Our kernels for tests: compiled once a checkout, and what is built of them."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.models import CACHE
from worker.engine.native import isa, library
from worker.engine.native.forward import NativeForward, columns_of
from worker.engine.native.isa import Level
from worker.engine.native.kernels import Kernels
from worker.engine.native.weights import NativeWeights

KERNELS: Final = CACHE / "models" / ".kernels"
"""Beside the real model, where a worker looks for them."""


def compiled(level: Level | None = None) -> Path:
    """The folder, with what this machine's workers load in it, or with another level as well."""
    _made(level or isa.of_this_machine()[0])
    return KERNELS


@cache
def loaded(level: Level | None = None) -> ctypes.CDLL:
    """The library of a level; by default the fastest that this machine can run."""
    return library.load(_made(level or isa.of_this_machine()[0]))


def native_forward(
    model: Any, *, slots: int = 1, context: int = 256, threads: int = 1, kernels: Any = None
) -> NativeForward:
    """`model` on the kernels; `context` in tokens."""
    weights = NativeWeights(
        kernels or loaded(), model, columns=columns_of(context), threads=threads
    )
    return NativeForward(weights, slots=slots)


@cache
def _made(level: Level) -> Path:
    return Kernels(KERNELS, (level,)).build(lambda _: None).path
