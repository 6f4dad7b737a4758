"""Token ids to text, piece by piece, without ever showing half a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

_CONTEXT: Final = 6
"""Prompt tokens decoded along, for tokenizers whose spaces depend on what stands before."""

_UNFINISHED: Final = "\ufffd"


class Decoder(Protocol):
    def decode(self, ids: list[int], /) -> str: ...


class Detokenizer:
    """Incremental detokenizing with a sliding prefix, as text-generation-inference does it.

    The text of a token is the difference between two decodings that share a prefix, held
    back while it ends in an incomplete UTF-8 sequence. A pure function of the ids seen:
    a resumed request that replays its ids arrives at the same text.
    """

    def __init__(self, decoder: Decoder, prompt_ids: Sequence[int]) -> None:
        self._decoder = decoder
        self._ids = list(prompt_ids[-_CONTEXT:])
        self._prefix = 0
        self._read = len(self._ids)

    def push(self, token_id: int) -> str:
        """The text that `token_id` makes certain; empty while a character is incomplete."""
        self._ids.append(token_id)
        before = self._decoder.decode(self._ids[self._prefix : self._read])
        after = self._decoder.decode(self._ids[self._prefix :])
        if after.endswith(_UNFINISHED) or len(after) <= len(before):
            return ""
        # Decode no more than needed next time: long answers stay linear.
        self._prefix, self._read = self._read, len(self._ids)
        return after[len(before) :]
