"""The forward pass in kernels of our own, all of a step in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence as Rows
from typing import Final

import numpy as np
import torch
from torch import Tensor

from worker.engine import speculation
from worker.engine.blocks import BLOCK
from worker.engine.cache import Step, aligned, allocate
from worker.engine.native import library
from worker.engine.native.sampling import NativeSampler
from worker.engine.native.weights import NativeWeights
from worker.engine.sequence import Sequence

_LARGEST: Final = torch.finfo(torch.float16).max


class NativeForward:
    """Keys and values in half precision; each token costs what it needs, in any company.

    The keys of `BLOCK` columns, beginning at a multiple of it, lie turned on their side: [head
    size, BLOCK] (`kKeysTogether` in the source). The prefix cache copies whole blocks.

    The call holds no interpreter lock, so that what was computed before can be published
    meanwhile.
    """

    ragged: Final = True
    at_once: Final = 256

    def __init__(self, weights: NativeWeights, *, slots: int) -> None:
        self._weights = weights
        like = torch.empty(0, dtype=torch.float16)
        shape = (2 * weights.layers, slots, weights.kv_heads, weights.columns, weights.size)
        self._stored = allocate(shape, like)
        self._caches = (library.LayerCache * weights.layers)(
            *(
                library.LayerCache(keys=keys.data_ptr(), values=values.data_ptr())
                for keys, values in zip(self._stored[::2], self._stored[1::2], strict=True)
            )
        )
        self._sampler = NativeSampler(
            weights.kernels,
            rows=slots + speculation.ROWS,
            run=ctypes.cast(weights.kernels.mv_pool_run, ctypes.c_void_p).value,
            pool=weights.pool.value,
        )
        self._logits = torch.empty(
            (slots + speculation.ROWS, weights.vocabulary), dtype=torch.float32
        )

    @property
    def tensors(self) -> list[Tensor]:
        return [self._stored]

    @property
    def vocabulary(self) -> int:
        return self._weights.vocabulary

    def __call__(self, steps: list[Step]) -> Tensor:
        ids = np.fromiter((each for step in steps for each in step.tokens), dtype=np.int32)
        counts = np.fromiter((len(step.tokens) for step in steps), dtype=np.int32)
        ends = np.cumsum(counts, dtype=np.int32)
        segments = np.empty((len(steps), 4), dtype=np.int32)
        segments[:, 0] = [step.row for step in steps]
        segments[:, 1] = [step.start for step in steps]
        segments[:, 2] = ends - counts
        segments[:, 3] = counts
        wanted = np.fromiter(
            (
                i
                for step, end in zip(steps, ends, strict=True)
                for i in range(end - step.wanted, end)
            ),
            dtype=np.int32,
        )
        if len(wanted) > len(self._logits):
            self._logits = torch.empty((len(wanted), self._weights.vocabulary))
        library.check(
            self._weights.kernels.mv_forward(
                self._weights.handle,
                ids.ctypes.data,
                segments.ctypes.data,
                len(steps),
                self._caches,
                wanted.ctypes.data,
                len(wanted),
                self._logits.data_ptr(),
                self._weights.vocabulary,
            )
        )
        return self._logits[: len(wanted)]

    def sample(self, logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
        return self._sampler.sample(logits, sequences)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        whole = aligned(length, BLOCK)
        self._stored[:, target, :, :whole] = self._stored[:, source, :, :whole]

    @torch.inference_mode()
    def take_over(self, row: int, length: int, tensors: list[Tensor]) -> None:
        """Copy the first `length` tokens of a row out of an eager path's cache."""
        whole = aligned(length, BLOCK)
        layers = [layer for piece in tensors for layer in piece]
        for keys, values, old_keys, old_values in zip(
            self._stored[::2], self._stored[1::2], layers[::2], layers[1::2], strict=True
        ):
            heads, size = keys.shape[1], keys.shape[3]
            turned = _finite(old_keys[row, :, :whole]).view(heads, -1, BLOCK, size)
            keys[row, :, :whole].view(heads, -1, size, BLOCK).copy_(turned.transpose(-1, -2))
            values[row, :, :whole] = _finite(old_values[row, :, :whole])


def columns_of(context: int) -> int:
    """Columns of a cache row for so many tokens."""
    return aligned(context, BLOCK)


def _finite(numbers: Tensor) -> Tensor:
    """What half precision can hold of them, as the kernels store it.

    Infinity, with a weight of zero, would be no number.
    """
    return numbers.clamp(-_LARGEST, _LARGEST)
