"""Which beginnings of prompts are known, block by block, and which block has to go."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final, NamedTuple, TypeAlias

BLOCK: Final = 16
"""Tokens that are kept and dropped together."""

_PACKED: Final = "I"
"""How `array` packs a token."""

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

    Prompts part in the middle of a block, most of them where a chat's template ends. So of those
    that could follow, the newest is looked at for how far it is right.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in blocks; they are numbered from 0."""
        self.capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._newest: dict[str | int, _Key] = {}
        """Of the blocks under the same one, or under the same salt, which came last."""
        self._serials = count()

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, salt: str, tokens: Sequence[int]) -> tuple[list[int], int]:
        """Numbers of the blocks that hold a known beginning of `tokens`, and how long that is.

        All but the last block are right to their ends.
        """
        keys, numbers, before = self._walk(salt, _pieces(tokens))
        known = len(keys) * BLOCK
        newest = self._newest.get(before)
        if newest is not None and (right := _common(newest[1], tokens[known : known + BLOCK])):
            keys.append(newest)
            numbers.append(self._blocks[newest].number)
            known += right
        self._use(keys)
        return numbers, known

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
            key, dropped = self._blocks.popitem(last=False)
            self._free.append(dropped.number)
            if self._newest.get(key[0]) == key:
                del self._newest[key[0]]
        added = []
        for piece in missing:
            block = _Block(self._free.pop(), next(self._serials))
            keys.append((before, piece))
            self._blocks[keys[-1]] = block
            self._newest[before] = keys[-1]
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


def _common(piece: bytes, tokens: Sequence[int]) -> int:
    """How many leading tokens of a block and of others are the same."""
    count = 0
    for own, other in zip(array(_PACKED, piece), tokens, strict=False):
        if own != other:
            break
        count += 1
    return count


def _pieces(tokens: Sequence[int]) -> list[bytes]:
    packed = array(_PACKED, tokens)
    whole = len(packed) - len(packed) % BLOCK
    raw, size = packed.tobytes(), packed.itemsize * BLOCK
    return [raw[at : at + size] for at in range(0, whole * packed.itemsize, size)]
