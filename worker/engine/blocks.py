"""Which beginnings of prompts are known, block by block, and which block has to go."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final, NamedTuple, TypeAlias

BLOCK: Final = 16
"""Tokens that are kept and dropped together."""

_Key: TypeAlias = tuple[str | int, bytes]
"""What stands before, and the block's own tokens: compared, not hashed to something shorter."""


class _Block(NamedTuple):
    number: int
    """Of the place that holds its keys and values."""
    serial: int
    """Names it and thereby all that stands before it. Never given twice."""


class BlockIndex:
    """A tree of blocks as one dictionary, least recently used first.

    A block is found under the one before it; the first of a text under the text's salt, so texts
    of different salts share none. Whoever uses a block has used those before it a moment later:
    the oldest is a leaf, always, and can go without leaving others behind that nothing leads to.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in blocks; they are numbered from 0."""
        self.capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._serials = count()

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, salt: str, tokens: Sequence[int]) -> list[int]:
        """Numbers of the blocks that hold the longest known beginning of `tokens`."""
        keys, numbers, _ = self._walk(salt, _pieces(tokens))
        self._use(keys)
        return numbers

    def insert(self, salt: str, tokens: Sequence[int], known: int) -> tuple[int, list[int]]:
        """Make room for the whole blocks of `tokens`, of which the first `known` were there.

        Nothing is inserted where one of these has gone since: memory is short then, and to put
        them all back would take the place, and the time, of others.

        Returns:
            How many blocks there were, and the numbers of those that follow and are to be filled.
        """
        pieces = _pieces(tokens)[: self.capacity]
        keys, numbers, before = self._walk(salt, pieces)
        if len(numbers) < known:
            return len(numbers), []
        self._use(keys)  # none of these makes room for the others
        missing = pieces[len(numbers) :]
        for _ in range(len(missing) - len(self._free)):
            _, dropped = self._blocks.popitem(last=False)
            self._free.append(dropped.number)
        added = []
        for piece in missing:
            block = _Block(self._free.pop(), next(self._serials))
            keys.append((before, piece))
            self._blocks[keys[-1]] = block
            added.append(block.number)
            before = block.serial
        self._use(keys)
        return len(numbers), added

    def _walk(self, salt: str, pieces: Iterable[bytes]) -> tuple[list[_Key], list[int], str | int]:
        """The known blocks from the beginning on: keys, numbers, and what the next one follows."""
        keys: list[_Key] = []
        numbers = []
        before: str | int = salt
        for piece in pieces:
            block = self._blocks.get((before, piece))
            if block is None:
                break
            keys.append((before, piece))
            numbers.append(block.number)
            before = block.serial
        return keys, numbers, before

    def _use(self, keys: Sequence[_Key]) -> None:
        for key in reversed(keys):
            self._blocks.move_to_end(key)


def _pieces(tokens: Sequence[int]) -> list[bytes]:
    packed = array("I", tokens)
    whole = len(packed) - len(packed) % BLOCK
    raw, size = packed.tobytes(), packed.itemsize * BLOCK
    return [raw[at : at + size] for at in range(0, whole * packed.itemsize, size)]
