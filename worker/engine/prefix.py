"""Keys and values of prompts and answers gone by, for requests that begin alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from worker.engine.blocks import BLOCK, BlockIndex
from worker.engine.cache import allocate

_UNSHARED: Final = 32768
"""Elements up to which torch copies on one thread. To wait for others takes longer than to copy:
on a busy machine, far longer."""


class PrefixCache:
    """Copies blocks of `BLOCK` tokens between the slots' rows and a memory of fixed size.

    A token's keys and values are the same bits whatever it was computed with (see
    docs/architecture.md, "Rounding"), so a copied block is what computing would have given.
    """

    def __init__(self, slots: Sequence[Tensor], max_bytes: int) -> None:
        """`slots`: keys and values of all layers, each [rows, heads, columns, head size]."""
        self._device = slots[0].device
        self._block_bytes = sum(each[0, :, :BLOCK].nbytes for each in slots)
        self._index = BlockIndex(max_bytes // self._block_bytes)
        self._stores = [(each, self._store(each)) for each in slots if self._index.capacity]

    @property
    def bytes(self) -> int:
        """Memory set aside."""
        return self._index.capacity * self._block_bytes

    @property
    def bytes_held(self) -> int:
        """What of it holds blocks. From any thread."""
        return len(self._index) * self._block_bytes

    @torch.inference_mode()
    def recall(self, salt: str, tokens: Sequence[int], row: int, there: int) -> int:
        """Put into a slot what is known of the beginning of `tokens`.

        `there` leading tokens are in the slot already. The last token is always left to be
        computed: somebody wants the logits behind it.

        Returns:
            How many leading tokens are in the slot now.
        """
        numbers = self._index.find(salt, tokens[:-1])
        first, end = there // BLOCK, len(numbers)
        if end * BLOCK <= there:
            return there
        wanted = torch.tensor(numbers[first:], device=self._device)
        for slots, store in self._stores:
            for at, blocks in _pieces(wanted, _blocks(slots, row, first, end)):
                blocks.copy_(store.index_select(0, at))
        return end * BLOCK

    @torch.inference_mode()
    def keep(self, salt: str, tokens: Sequence[int], row: int, kept: int) -> None:
        """Store what a slot holds of `tokens`, all of which are in it, in whole blocks.

        `kept` leading tokens were stored or recalled before; if they have been dropped since,
        nothing is stored.
        """
        first, numbers = self._index.insert(salt, tokens, kept // BLOCK)
        if not numbers:
            return
        added = torch.tensor(numbers, device=self._device)
        for slots, store in self._stores:
            for at, blocks in _pieces(added, _blocks(slots, row, first, first + len(numbers))):
                store.index_copy_(0, at, blocks)

    def _store(self, slots: Tensor) -> Tensor:
        """Room for blocks of these, [blocks, heads, BLOCK, head size]."""
        return allocate((self._index.capacity, slots.shape[1], BLOCK, slots.shape[3]), slots)


def _blocks(slots: Tensor, row: int, first: int, end: int) -> Tensor:
    """A part of a slot as [blocks, heads, BLOCK, head size], in place."""
    part = slots[row, :, first * BLOCK : end * BLOCK]
    heads, _, size = part.shape
    return part.view(heads, end - first, BLOCK, size).transpose(0, 1)


def _pieces(numbers: Tensor, blocks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both, so many at a time as are copied best."""
    together = len(numbers)
    if numbers.device.type == "cpu":
        together = max(1, _UNSHARED // blocks[0].numel())
    return zip(torch.split(numbers, together), torch.split(blocks, together), strict=True)
