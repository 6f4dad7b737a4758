"""A model's tokens as bytes: what log probabilities tell, and what grammars are held against."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from threading import Lock
from typing import Any

from llguidance import LLTokenizer

from shared.errors import InvalidGrammarError
from worker.engine.decoder import Decoder


class Vocabulary:
    """Made when it is first asked: half a second for 49,152 tokens. From any thread."""

    def __init__(self, make: Callable[[], LLTokenizer], decoder: Decoder) -> None:
        """`make` raises ValueError for a tokenizer that the library does not understand."""
        self._make = make
        self._decoder = decoder
        self._making = Lock()

    @property
    def tokens(self) -> LLTokenizer:
        """As grammars need them.

        Raises:
            InvalidGrammarError: nobody knows their bytes.
        """
        found = self._known()
        if found is None:
            raise InvalidGrammarError("This model's tokens can't be held to a grammar.")
        return found

    def raw(self, token_id: int) -> bytes:
        """What a token stands for, perhaps a part of a character; a special token's is its name."""
        found = self._known()
        if found is None:
            return self._decoder.decode([token_id]).encode()
        return found.decode_bytes([token_id])

    def _known(self) -> LLTokenizer | None:
        with self._making:
            return self._tokens

    @cached_property
    def _tokens(self) -> LLTokenizer | None:
        try:
            return self._make()
        except ValueError:
            return None


def vocabulary_of(
    tokenizer: Any, decoder: Decoder, eos_ids: Collection[int], size: int
) -> Vocabulary:
    """Of a tokenizer with byte-level pieces, or with ones that have bytes to fall back on.

    Args:
        tokenizer: transformers'.
        decoder: of the same tokens.
        eos_ids: whatever ends a response.
        size: how many tokens the model has logits for.
    """

    def make() -> LLTokenizer:
        from llguidance.hf import from_tokenizer  # noqa: PLC0415  (transformers is there by then)

        size_of_all = max(size, len(tokenizer))
        return from_tokenizer(tokenizer, n_vocab=size_of_all, eos_token=list(eos_ids) or None)

    return Vocabulary(make, decoder)
