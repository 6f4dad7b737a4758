"""How much of the prompts to prefill in one pass, so that running streams keep their pace."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Final

from worker.engine.chunk import Chunk
from worker.engine.sequence import Sequence

_LEAST: Final = 4
_STRETCH: Final = 0.4
"""How much longer than a pass that only decodes one may take that prefills as well."""
_CROWD: Final = 2
"""Prompts that wait for each stream from which on it may take longer, in proportion: slots that are
still empty cost throughput, and whoever is to fill them waits for all before."""
_YOUNG: Final = 8
"""Tokens that a stream has when its pace begins to count: before, its reader has just begun."""
_WEIGHT: Final = 0.2
"""Of the newest measurement."""


class Pace:
    """Learns from the passes what decoding takes and what a prompt's token adds.

    Where a pass rounds alike whatever it holds, its size decides on time alone.
    """

    def __init__(self, most: int) -> None:
        """`most`: tokens to prefill in a pass while other streams run."""
        self._most = most
        self._decode = 0.0
        """Seconds of a pass that only decodes; 0 before there was one."""
        self._token = 0.0
        """Seconds that a prompt's token adds to a pass."""

    def budget(self, decoding: Rows[Sequence], waiting: int, *, ragged: bool, at_once: int) -> int:
        """How many tokens to prefill of so many prompts beside those that decode.

        `at_once` where nobody waits for a next token, and never more.
        """
        most = min(self._most, at_once)
        if not ragged:
            return most if decoding else at_once
        if not any(sequence.generated >= _YOUNG for sequence in decoding):
            return at_once
        if not self._decode or not self._token:
            return _LEAST
        stretch = _STRETCH * max(1.0, waiting / (_CROWD * len(decoding)))
        return max(_LEAST, min(most, int(stretch * self._decode / self._token)))

    def note(self, chunks: Rows[Chunk], seconds: float) -> None:
        """A pass over so many tokens of some sequences took so long."""
        prefilled = sum(chunk.count for chunk in chunks if chunk.count > 1)
        if not prefilled:
            self._decode = _blend(self._decode, seconds)
        elif self._decode:
            self._token = _blend(self._token, max(seconds - self._decode, 0.0) / prefilled)


def _blend(known: float, new: float) -> float:
    return new if not known else (1 - _WEIGHT) * known + _WEIGHT * new
