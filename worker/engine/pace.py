"""How much of the prompts to prefill in one pass, so that running streams keep their pace."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Final

from worker.engine.chunk import Chunk
from worker.engine.sequence import Sequence

_LEAST: Final = 4
_STRETCH: Final = 0.25
"""How much longer than a pass that only decodes one may take that prefills as well."""
_SHORT: Final = 200
"""Tokens that a waiting prompt has left on average, below which a pass may take longer, in
proportion: they soon decode, and slots that are still empty cost throughput."""
_SHORTER: Final = 4.0
"""How many times as much longer at most."""
_CROWD: Final = 2
"""Prompts that wait for each stream from which on a pass may take longer, too: whoever is to fill a
slot waits for all before."""
_YOUNG: Final = 8
"""Tokens that a stream has when its pace begins to count: before, its reader has just begun."""
_WEIGHT: Final = 0.2
"""Of the newest measurement."""


class Pace:
    """Learns from the passes what one takes for itself and what each of its tokens adds.

    That is nearly as much for a stream's next token as for one of a prompt. Where a pass rounds
    alike whatever it holds, its size decides on time alone.
    """

    def __init__(self, most: int) -> None:
        """`most`: tokens to prefill in a pass while other streams run."""
        self._most = most
        self._base = 0.0
        """Seconds of a pass, its tokens aside; 0 before one has only decoded."""
        self._token = 0.0
        """Seconds that a token adds to it; 0 before one has prefilled."""

    def budget(
        self, decoding: Rows[Sequence], waiting: Rows[Sequence], *, ragged: bool, at_once: int
    ) -> int:
        """How many tokens to prefill of those that wait beside those that decode.

        `at_once` where nobody waits for a next token, and never more.
        """
        most = min(self._most, at_once)
        if not ragged:
            return most if decoding else at_once
        if not any(sequence.generated >= _YOUNG for sequence in decoding):
            return at_once
        if not self._base or not self._token:
            return _LEAST
        left = sum(sequence.pending for sequence in waiting)
        shorter = min(max(1.0, _SHORT * len(waiting) / left), _SHORTER)
        crowd = max(1.0, len(waiting) / (_CROWD * len(decoding)))
        seconds = _STRETCH * shorter * crowd * (self._base + self._token * len(decoding))
        return max(_LEAST, min(most, int(seconds / self._token)))

    def note(self, chunks: Rows[Chunk], seconds: float) -> None:
        """A pass over so many tokens of some sequences took so long."""
        tokens = sum(chunk.count + len(chunk.draft) for chunk in chunks)
        if all(chunk.count == 1 for chunk in chunks):
            self._base = _blend(self._base, max(seconds - self._token * tokens, 0.0))
        elif self._base:
            self._token = _blend(self._token, max(seconds - self._base, 0.0) / tokens)


def _blend(known: float, new: float) -> float:
    return new if not known else (1 - _WEIGHT) * known + _WEIGHT * new
