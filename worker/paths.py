"""Which forward pass a loaded model gets: kernels of our own where they take it, or its own."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import Future
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from shared.errors import KernelsUnavailableError
from shared.logging import get_logger
from shared.settings import Settings
from worker.engine.cache import Step
from worker.engine.eager import EagerForward
from worker.engine.forward import Forward, Successor
from worker.engine.gpu import forward as gpu
from worker.engine.gpu.graphs import Graphs
from worker.engine.gpu.norms import as_written, in_one
from worker.engine.native import background
from worker.engine.native.architecture import takes
from worker.engine.native.forward import NativeForward, columns_of
from worker.engine.native.weights import NativeWeights

_PROBE: Final = 24
"""Tokens that both paths compute before one takes over from the other."""
_SLOWER: Final = "The model's own path serves, which is slower."
_ALIKE: Final = 0.95
"""Least cosine between their logits. Int8 alone leaves it above 0.98, a wrong result near 0."""


def in_int8(settings: Settings, config: Any, device: torch.device) -> bool:
    """Whether a model with this configuration is computed in int8, by kernels of our own."""
    return device.type == "cpu" and background.wanted(settings) and takes(config)


def forward_of(
    model: PreTrainedModel, settings: Settings, *, context: int
) -> tuple[Forward, Future[Successor] | None]:
    """The path to begin with and, where that is slower than it could be, the one to come.

    `context` in tokens.
    """
    slots = settings.slots
    if gpu.takes(model):
        return _on_gpu(model, slots=slots, context=context), None
    if not in_int8(settings, model.config.get_text_config(), model.device):
        return EagerForward(model, slots=slots, context=context), None
    kernels = background.prepare(background.kernels_of(settings))

    def native() -> Successor:
        loaded = kernels.result()
        try:
            return _native(loaded, model, slots=slots, context=context)
        except KernelsUnavailableError:
            raise
        except Exception as error:
            get_logger().exception("kernels unavailable", reason=background.MEANWHILE)
            raise KernelsUnavailableError(f"{type(error).__name__}: {error}") from error

    if kernels.done() and kernels.exception() is None:
        try:
            return native(), None
        except KernelsUnavailableError:
            return EagerForward(model, slots=slots, context=context), None
    eager = EagerForward(model, slots=slots, context=context)
    return eager, background.in_background(native)


def _native(
    kernels: ctypes.CDLL, model: PreTrainedModel, *, slots: int, context: int
) -> NativeForward:
    """Raise KernelsUnavailableError, which has been logged, if they compute something else."""
    began, threads = time.monotonic(), torch.get_num_threads()
    weights = NativeWeights(kernels, model, columns=columns_of(context), threads=threads)
    count = min(_PROBE, context)
    expected = _probed(EagerForward(model, slots=1, context=count), count)
    alike = _cosine(expected, _probed(NativeForward(weights, slots=1), count))
    if not alike >= _ALIKE:
        reason = f"They differ from the model's own path: {alike:.3f}. {background.MEANWHILE}"
        get_logger().error("kernels unavailable", reason=reason)
        raise KernelsUnavailableError(reason)
    seconds = round(time.monotonic() - began, 2)
    get_logger().info("compiled path ready", threads=threads, seconds=seconds)
    return NativeForward(weights, slots=slots)


def _on_gpu(model: PreTrainedModel, *, slots: int, context: int) -> Forward:
    """Recorded passes where they compute what the model's own operations do, else these."""
    began = time.monotonic()
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    count = min(window + _PROBE, context)  # where there is a window, what lies behind it, too
    expected = _probed(EagerForward(model, slots=1, context=count), count)
    problem = ""
    try:
        in_one(model)
        forward = gpu.PackedForward(model, slots=slots, context=context, record=Graphs().record)
        if not (alike := _cosine(expected, _probed(forward, count))) >= _ALIKE:
            del forward  # and its memory
            problem = f"They differ from the model's own path: {alike:.3f}"
    except Exception as error:  # noqa: BLE001  (models are of many kinds; each has its own path)
        problem = str(error) or type(error).__name__
    if problem:
        as_written(model)
        get_logger().warning("graphs unavailable", reason=f"{problem}. {_SLOWER}")
        return EagerForward(model, slots=slots, context=context)
    seconds = round(time.monotonic() - began, 2)
    get_logger().info("graphs ready", device=str(model.device), seconds=seconds)
    return forward


def _probed(path: Forward, count: int) -> torch.Tensor:
    """Logits behind so many tokens, the last one decoded."""
    ids = [(7 * i + 1) % path.vocabulary for i in range(count)]
    for at in range(0, count - 1, path.at_once):
        path([Step(row=0, start=at, tokens=ids[at : min(at + path.at_once, count - 1)])])
    return path([Step(row=0, start=count - 1, tokens=ids[-1:])]).float()


def _cosine(expected: torch.Tensor, computed: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(expected, computed).item()
