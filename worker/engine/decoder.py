"""Token ids to text at once, as the model's tokenizer does it, without its special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

_COMPARED: Final = 500
"""Tokens, of all that there are."""


class Decoder(Protocol):
    def decode(self, ids: list[int], /) -> str: ...


class PlainDecoder:
    """A tokenizer's `decode` with nothing but the text."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is transformers'."""
        self.decode: Callable[[list[int]], str] = partial(
            tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class LibraryDecoder:
    """`decode` of the library below, which takes a tenth of the time for a token or two."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is of the library `tokenizers`."""
        self.decode: Callable[[list[int]], str] = partial(
            tokenizer.decode, skip_special_tokens=True
        )


class ByteDecoder:
    """Of a tokenizer whose tokens are bytes, whatever stands around them."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is of the library `tokenizers`, with nothing but a byte-level decoder."""
        self._tokenizer = tokenizer
        self._special = {
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self._known: dict[int, bytes] = {}

    def decode(self, ids: list[int]) -> str:
        return b"".join(map(self.raw, ids)).decode(errors="replace")

    def raw(self, token_id: int) -> bytes:
        """What a token adds to the text; nothing for a special one, or one that does not exist."""
        raw = self._known.get(token_id)
        if raw is None:
            raw = self._known[token_id] = self._read(token_id)
        return raw

    def _read(self, token_id: int) -> bytes:
        piece = None if token_id in self._special else self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        try:
            return bytes(_BYTES[character] for character in piece)
        except KeyError:  # a token that was added as it stands
            encoded: bytes = piece.encode()
            return encoded


def decoder_of(tokenizer: Any) -> Decoder:
    """The cheapest that decodes as `tokenizer`, transformers', does."""
    plain = PlainDecoder(tokenizer)
    below = getattr(tokenizer, "backend_tokenizer", None)
    if below is None:
        return plain
    cheap = ByteDecoder(below) if _is_byte_level(below) else LibraryDecoder(below)
    some = list(range(0, len(tokenizer), len(tokenizer) // _COMPARED + 1))
    # Some classes do more to a text.
    return cheap if cheap.decode(some) == plain.decode(some) else plain


def _is_byte_level(tokenizer: Any) -> bool:
    decoder = tokenizer.decoder
    return decoder is not None and json.loads(decoder.__getstate__())["type"] == "ByteLevel"


def _bytes() -> dict[str, int]:
    """The characters that byte-level tokenizers write for bytes, as GPT-2 did.

    Printable ones stand for themselves; the others, in order, for what follows on U+00FF.
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in itself]
    written = {chr(byte): byte for byte in itself}
    return written | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES: Final = _bytes()
