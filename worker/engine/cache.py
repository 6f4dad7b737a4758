"""The KV cache: one row of fixed length for each slot, shared by all requests of a model."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from transformers import Cache

_KEYS: Final = 16
"""Keys are read in multiples of this, so that attention's vector loops have no odd tail and
round alike whatever the longest neighbour is (see docs/architecture.md, "Rounding")."""
_BLOCK: Final = 512
"""SDPA reads keys in blocks of this."""
_PIECE: Final = 192
"""MKL sums a block in pieces of this, but one of less than two pieces in two halves."""
ROWS: Final = 4
"""Matrix products are given multiples of this many rows: an odd rest rounds differently, and a
token would then depend on its neighbours, or on whether it was prefilled or decoded."""


@dataclass(frozen=True, slots=True)
class Step:
    """New tokens of one cache row, from position `start` on. None: the row is computed idly."""

    row: int
    start: int
    tokens: list[int]
    wanted: int = 1
    """Behind how many of its last tokens logits are wanted; 0 or 1 where passes are padded."""


@dataclass
class Placement:
    """Where one forward pass reads and writes, and what each query may see.

    The batch has a row for each `Step`, as wide as the longest, rounded up to `ROWS`. A
    shorter one has padding on its left, so that its newest token is always the last column.
    """

    rows: Tensor
    """int64 [batch]: cache row of each batch row."""
    token_ids: Tensor
    """int64 [batch, width]; 0 for padding."""
    positions: Tensor
    """int64 [batch, width]; -1 for padding."""
    length: int
    """Keys that each row reads: what the longest row holds, rounded up."""
    in_place: bool
    """The rows are 0..batch-1, so keys are read where they lie instead of gathered."""
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """Bool [batch, 1, width, length]: causal, and no further back than `window` tokens."""
        if window not in self._masks:
            keys = torch.arange(self.length, device=self.positions.device)
            queries = self.positions.clamp(min=0)[:, None, :, None]
            allowed = keys <= queries
            if window is not None:
                allowed &= keys > queries - window
            self._masks[window] = allowed
        return self._masks[window]


class SlotCache(Cache):
    """Keys and values of every layer, [rows, heads, columns, head size].

    A `transformers.Cache` as far as attention layers use one: they call `update`, which
    stores the new keys and hands back all of them. Layers appear on their first update, in
    whatever shape the model gives them. There is a column more than the context has tokens:
    the last one takes the padding's keys, and no mask ever lets it be seen.
    """

    def __init__(self, rows: int, context: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self._rows = aligned(rows, ROWS)
        self._columns = keys_read(context + 1)
        self._device = device
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self._placement: Placement | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values of each layer."""
        return [tensor for pair in self._stored.values() for tensor in pair]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def place(self, batch: list[Step]) -> Placement:
        """Prepare the next forward pass, whose layers will `update` accordingly."""
        width = max(len(step.tokens) for step in batch)
        if width > 1:
            width = aligned(width, ROWS)
        token_ids = torch.zeros((len(batch), width), dtype=torch.long)
        positions = torch.full((len(batch), width), -1)
        for i, step in enumerate(batch):
            if step.tokens:
                end = step.start + len(step.tokens)
                token_ids[i, -len(step.tokens) :] = torch.tensor(step.tokens)
                positions[i, -len(step.tokens) :] = torch.arange(step.start, end)
        longest = max(step.start + len(step.tokens) for step in batch)
        rows = [step.row for step in batch]
        self._placement = Placement(
            rows=torch.tensor(rows, device=self._device),
            token_ids=token_ids.to(self._device),
            positions=positions.to(self._device),
            length=keys_read(longest),
            in_place=rows == list(range(len(rows))),
        )
        return self._placement

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store [batch, heads, width, size] and return [batch, heads, length, size]."""
        place = self._placement
        assert place is not None, "place() comes before a forward pass"
        if layer_idx not in self._stored:
            self._stored[layer_idx] = (self._zeros(key_states), self._zeros(value_states))
        keys, values = self._stored[layer_idx]
        at = (place.rows[:, None], slice(None), place.positions)
        keys[at] = key_states.transpose(1, 2)
        values[at] = value_states.transpose(1, 2)
        rows = slice(len(place.rows)) if place.in_place else place.rows
        return keys[rows, :, : place.length], values[rows, :, : place.length]

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row over another."""
        for tensor in self.tensors:
            tensor[target, :, :length] = tensor[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        """Always 0: rows differ in length, and their positions are given explicitly."""
        return 0

    def _zeros(self, states: Tensor) -> Tensor:
        """A layer's storage. Zeroed, since a masked score of NaN would still be NaN."""
        return allocate((self._rows, states.shape[1], self._columns, states.shape[3]), states)


def allocate(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the kind of `like`.

    On a CPU taken from the kernel page by page as they are written: a slot costs what it holds.
    In huge pages, a row's first token would zero megabytes in every layer.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    memory = mmap.mmap(-1, math.prod(shape) * like.element_size())
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)


def keys_read(count: int) -> int:
    """The next length that rounds like all others."""
    blocks, rest = divmod(aligned(count, _KEYS), _BLOCK)
    if _PIECE < rest < 2 * _PIECE:
        rest = 2 * _PIECE
    return blocks * _BLOCK + rest


def aligned(count: int, to: int) -> int:
    """The next multiple of `to`."""
    return -(-count // to) * to
