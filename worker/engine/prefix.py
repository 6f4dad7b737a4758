"""Keys and values of prompts and answers gone by, for requests that begin alike."""

from __future__ import annotations

from collections.abc import Sequence
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
        """`slots`: keys and values, each [layers, rows, heads, columns, head size]."""
        self._device = slots[0].device
        self._block_bytes = sum(each[:, 0, :, :BLOCK].nbytes for each in slots)
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

    def recall(self, salt: str, tokens: Sequence[int], row: int, there: int) -> int:
        """Put into a slot what is known of the beginning of `tokens`.

        `there` leading tokens are in the slot already. The last token is always left to be
        computed: somebody wants the logits behind it. Columns behind what is known may be written
        to: they hold nothing yet.

        Returns:
            How many leading tokens are in the slot now.
        """
        numbers, known = self._index.find(salt, tokens[:-1])
        if known <= there:
            return there
        first = there // BLOCK
        self._copy(numbers[first:], row, first, into_slot=True)
        return known

    def keep(self, salt: str, tokens: Sequence[int], row: int, kept: int) -> None:
        """Store what a slot holds of `tokens`, all of which are in it, in whole blocks.

        `kept` leading tokens were stored or recalled before; if they have been dropped since,
        nothing is stored.
        """
        first, numbers = self._index.insert(salt, tokens, kept // BLOCK)
        if numbers:
            self._copy(numbers, row, first, into_slot=False)

    @torch.inference_mode()
    def _copy(self, numbers: Sequence[int], row: int, first: int, *, into_slot: bool) -> None:
        """Between the stored blocks of these numbers and a slot's, from its block `first` on."""
        for slots, store in self._stores:
            blocks = _blocks(slots, row, first, first + len(numbers))
            if self._device.type == "cpu":
                together = max(1, _UNSHARED // blocks[0, 0].numel())
                for at, number in enumerate(numbers):
                    own = torch.split(blocks[:, at], together)
                    stored = torch.split(store[:, number], together)
                    for a, b in zip(own, stored, strict=True):
                        a.copy_(b) if into_slot else b.copy_(a)
                continue
            index = torch.tensor(numbers, device=self._device)
            if into_slot:
                blocks.copy_(store.index_select(1, index))
            else:
                store.index_copy_(1, index, blocks)

    def _store(self, slots: Tensor) -> Tensor:
        """Room for blocks of these, [layers, blocks, heads, BLOCK, head size]."""
        layers, _, heads, _, size = slots.shape
        return allocate((layers, self._index.capacity, heads, BLOCK, size), slots)


def _blocks(slots: Tensor, row: int, first: int, end: int) -> Tensor:
    """A part of a slot as [layers, blocks, heads, BLOCK, head size], in place."""
    part = slots[:, row, :, first * BLOCK : end * BLOCK]
    layers, heads, _, size = part.shape
    return part.view(layers, heads, end - first, BLOCK, size).transpose(1, 2)
