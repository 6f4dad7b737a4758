"""Chooses a step's tokens in one call of the native library."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence as Rows
from typing import Final

from torch import Tensor

from worker.engine.draw import uniform
from worker.engine.sequence import Sequence

_ROW: Final = struct.Struct("@4d2i3f3i5P")
"""`mv_sampling` in src/sampler.h."""


class NativeSampler:
    """What `worker.engine.sampler.sample` does, on a CPU and without torch's cost for each row."""

    def __init__(
        self, library: ctypes.CDLL, *, rows: int, run: int | None = None, pool: int | None = None
    ) -> None:
        """`rows` is the most there are in a step.

        `run` and `pool` are the addresses of an `mv_run` and of its first argument: threads that
        share the rows among them.
        """
        self._sample = library.mv_sample
        self._run, self._pool = run, pool
        self._packed = bytearray(_ROW.size * rows)
        self._tokens = (ctypes.c_int32 * rows)()
        self._addresses = (
            ctypes.addressof(ctypes.c_char.from_buffer(self._packed)),
            ctypes.addressof(self._tokens),
        )

    def sample(self, logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
        """Choose the next token of each sequence.

        Args:
            logits: float32 [rows, vocabulary] on the CPU, each row without gaps; overwritten.
            sequences: one for each row; several rows of one are for tokens that follow each other.
        """
        rows, vocabulary = logits.shape
        before, ahead = None, 0
        for row, sequence in enumerate(sequences):
            ahead = ahead + 1 if sequence is before else 0
            self._pack(row, sequence, vocabulary, ahead)
            before = sequence
        packed, tokens = self._addresses
        self._sample(
            logits.data_ptr(),
            logits.stride(0),
            rows,
            vocabulary,
            packed,
            tokens,
            self._run,
            self._pool,
        )
        return self._tokens[:rows]

    def _pack(self, row: int, sequence: Sequence, vocabulary: int, ahead: int) -> None:
        params, tally, constraint = sequence.params, sequence.tally, sequence.constraint
        greedy = params.greedy
        seen_ids = times = seen = bias_ids = bias = biased = allowed = 0
        if tally is not None:
            seen_ids, seen = tally.ids.buffer_info()
            times, _ = tally.times.buffer_info()
        if sequence.bias is not None:
            bias_ids, biased = sequence.bias.ids.buffer_info()
            bias, _ = sequence.bias.values.buffer_info()
        if constraint is not None:
            if constraint.size < vocabulary:
                raise ValueError(f"A grammar over {constraint.size} of {vocabulary} tokens.")
            allowed = constraint.address
        _ROW.pack_into(
            self._packed,
            row * _ROW.size,
            params.temperature,
            params.top_p,
            params.min_p,
            0.0 if greedy else uniform(params.seed, sequence.generated + ahead),
            greedy,
            params.top_k,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
            biased,
            seen,
            0,
            bias_ids,
            bias,
            seen_ids,
            times,
            allowed,
        )
