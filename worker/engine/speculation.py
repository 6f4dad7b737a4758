"""Tokens that may come next, looked up in what has been said, to be verified in the same pass.

With one stream a pass costs what reading the weights costs, whether for one token or for four.
A draft is right if drawing behind it gives the same token, and draws depend on logits, seed and
position alone: the output is what it would be without (prompt lookup, Saxena 2023).
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Final

ROWS: Final = 4
"""Tokens of a pass that cost about what one does."""
_LENGTHS: Final = (3, 2)
"""How many tokens have to be the same for what followed them to be drafted, best first."""
_WORTH: Final = 0.15
"""Share of drafted tokens that has to be right for drafting to pay."""
_WEIGHT: Final = 0.1
_PAUSE: Final = 32
"""Passes without a draft where too few were right."""


def room(streams: int) -> int:
    """How many tokens to draft for each of so many streams."""
    return max(0, ROWS - streams) // streams


class Lookup:
    """What followed last time, for one sequence."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        """Where the tokens behind these began last time."""
        self._seen = 0
        self._right = 0.5
        self._pause = 0

    def draft(self, tokens: Ids[int], most: int) -> list[int]:
        """At most so many tokens that may follow `tokens`, which have only grown since."""
        for end in range(self._seen, len(tokens)):  # the end itself has no token behind it yet
            for length in _LENGTHS:
                if end >= length:
                    self._after[tuple(tokens[end - length : end])] = end
        self._seen = len(tokens)
        if self._pause:
            self._pause -= 1
            return []
        for length in _LENGTHS:
            at = self._after.get(tuple(tokens[-length:]))
            if at is not None:
                return list(tokens[at : at + most])
        return []

    def verified(self, drafted: int, right: int) -> None:
        """Of so many tokens so many were right."""
        self._right += _WEIGHT * (right / drafted - self._right)
        if self._right < _WORTH:
            self._pause, self._right = _PAUSE, 2 * _WORTH
