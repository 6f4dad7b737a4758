"""What a pass is about, in tensors that stay where they are, so that its graph can be replayed."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.engine.cache import Step


class Room(NamedTuple):
    """How much a pass has room for. What is not used of it is computed idly."""

    tokens: int
    sequences: int
    longest: int
    """Tokens of one sequence."""
    wanted: int
    """Tokens behind which logits are wanted."""


class Grid(NamedTuple):
    """The KV cache as seen from outside: cells in rows, and one more that takes what is idle."""

    rows: int
    columns: int

    @property
    def spare(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pass reads and writes in the cache, as `varlen_attn` takes it."""

    cells: Tensor
    """int64 [tokens]: where each token's key and value go."""
    query_starts: Tensor
    """int32 [sequences + 1]: of each sequence's tokens in the pass."""
    key_starts: Tensor
    """int32 [sequences + 1]: of each sequence's row; the last one is not read."""
    key_counts: Tensor
    """int32 [sequences]: tokens of each, the pass's included."""
    longest: int
    columns: int


class Inputs:
    """Filled on the host, and copied to the device in one piece."""

    def __init__(self, room: Room, grid: Grid, device: torch.device) -> None:
        self._room, self._grid = room, grid
        bounds = (room.sequences + 1, room.sequences + 1, room.sequences)
        lengths = [*3 * (room.tokens,), room.wanted, *bounds]
        host = torch.zeros(sum(lengths), dtype=torch.long)
        # From pinned memory the copy is queued, not waited for.
        self._host = host.pin_memory() if device.type == "cuda" else host
        self._copied: torch.cuda.Event | None = None
        self._there = torch.zeros_like(self._host, device=device)
        self._ids, self._positions, self._cells, self._wanted, *rest = (
            part.numpy() for part in torch.split(self._host, lengths)
        )
        self._query_starts, self._key_starts, self._key_counts = rest
        self.token_ids, self.positions, self._cells_there, self.wanted, *self._bounds = torch.split(
            self._there, lengths
        )
        self.fill([])

    @property
    def placement(self) -> Placement:
        """A part of the pass: on the device, from what is there then."""
        query_starts, key_starts, key_counts = (each.int() for each in self._bounds)
        return Placement(
            self._cells_there,
            query_starts,
            key_starts,
            key_counts,
            longest=self._room.longest,
            columns=self._grid.columns,
        )

    def fill(self, steps: Rows[Step]) -> None:
        """Take the next pass.

        Where each sequence has one token, an idle one has too: attention counts on it then. Else
        it has none, and idle tokens belong to nobody.
        """
        if self._copied is not None:
            self._copied.synchronize()  # the last pass's copy may not have been made yet
        single = self._room.longest == 1
        count, at, wanted = len(steps), 0, 0
        for i, step in enumerate(steps):
            row, length = step.row * self._grid.columns, len(step.tokens)
            end = at + length
            self._ids[at:end] = step.tokens
            self._positions[at:end] = np.arange(step.start, step.start + length)
            self._cells[at:end] = self._positions[at:end] + row
            self._query_starts[i], self._key_starts[i] = at, row
            self._key_counts[i] = step.start + length
            self._wanted[wanted : wanted + step.wanted] = np.arange(end - step.wanted, end)
            at, wanted = end, wanted + step.wanted
        self._ids[at:] = self._positions[at:] = 0
        self._cells[at:] = self._grid.spare
        self._key_starts[count:] = self._grid.spare
        self._key_counts[count:] = single
        self._query_starts[count:] = np.arange(count, len(self._query_starts)) if single else at
        self._wanted[wanted:] = 0
        self._there.copy_(self._host, non_blocking=True)
        if self._there.is_cuda:
            self._copied = torch.cuda.current_stream().record_event(self._copied)
