"""How many tokens a prompt can have, known before a tokenizer sees it."""

from __future__ import annotations

import unicodedata
from typing import Final

from api.draft import Draft

_TEMPLATE: Final = 256
"""Tokens that a chat template adds: its marks, and a system prompt of its own."""
_PER_MESSAGE: Final = 16


def prompt_tokens_at_most(draft: Draft, longest: int) -> int:
    """`longest` is what the service takes: of more tokens no prompt is ever run.

    A token of text stands for a byte of UTF-8 at least, as the vocabularies in use have it. Some
    models normalize a text first, which can make it longer.
    """
    if draft.prompt_ids:
        return min(len(draft.prompt_ids), longest)
    texts = [turn.content for turn in draft.messages] or [draft.prompt]
    count = sum(len(text) for text in texts)
    if count < longest:  # else there is nothing left to find out
        count = sum(max(_bytes(text), _bytes(_normal(text))) for text in texts)
    return min(count + _TEMPLATE + _PER_MESSAGE * len(texts), longest)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)
