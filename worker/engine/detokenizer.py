"""Token ids to text, piece by piece, without ever showing half a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from worker.engine.decoder import ByteDecoder, Decoder

_CONTEXT: Final = 6
"""Prompt tokens decoded along, for tokenizers whose spaces depend on what stands before."""

_UNFINISHED: Final = "\ufffd"


class Detokenizer(Protocol):
    """A pure function of the ids seen: a resumed request that replays them arrives at its text.

    What ends in an incomplete UTF-8 sequence is held back until that is over.
    """

    def push(self, token_id: int, /) -> str:
        """The text that `token_id` makes certain; empty while a character is incomplete."""
        ...


def detokenizer(decoder: Decoder, prompt_ids: Sequence[int]) -> Detokenizer:
    """One for the tokens that follow on a prompt."""
    context = list(prompt_ids[-_CONTEXT:])
    if isinstance(decoder, ByteDecoder):
        return ByteDetokenizer(decoder, context)
    return WindowDetokenizer(decoder, context)


class WindowDetokenizer:
    """With a sliding prefix, as text-generation-inference does it.

    The text of a token is the difference between two decodings that share a prefix.
    """

    def __init__(self, decoder: Decoder, context: list[int]) -> None:
        self._decode = decoder.decode
        self._begin(context)

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        before, after = self._before, self._decode(self._ids)
        if after.endswith(_UNFINISHED) or len(after) <= len(before):
            return ""
        # Decode no more than needed next time: long answers stay linear.
        self._begin(self._ids[self._read :])
        return after[len(before) :]

    def _begin(self, ids: list[int]) -> None:
        self._ids, self._read, self._before = ids, len(ids), self._decode(ids)


class ByteDetokenizer:
    """The same text where tokens are bytes: none of them depends on what stands before.

    Where a piece was shown, a character has ended, so that what follows is decoded alone.
    """

    def __init__(self, decoder: ByteDecoder, context: list[int]) -> None:
        self._raw = decoder.raw
        self._held = b"".join(map(decoder.raw, context))
        self._shown = len(self._held.decode(errors="replace"))
        """Characters that `_held` begins with and that are the prompt's."""

    def push(self, token_id: int) -> str:
        held = self._held + self._raw(token_id)
        text = held.decode(errors="replace")
        shown = self._shown
        if text.endswith(_UNFINISHED) or len(text) <= shown:
            self._held = held
            return ""
        self._held, self._shown = b"", 0
        return text[shown:]
