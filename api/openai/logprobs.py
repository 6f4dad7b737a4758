"""Log probabilities as OpenAI's answers have them. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shared.events import Logprob, TokenLogprobs

_LEAST: Final = -9999.0
"""What OpenAI has for tokens that are next to impossible; JSON knows no infinity."""


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class ChatLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    """The token exactly; its text may be a part of a character."""
    top_logprobs: tuple[TopLogprob, ...]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: Sequence[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, an entry for each token."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]] | None


def chat_logprobs(found: Iterable[TokenLogprobs]) -> ChatLogprobs:
    return ChatLogprobs(
        tuple(
            ChatLogprob(
                token=each.drawn.raw.decode(errors="replace"),
                logprob=_finite(each.drawn),
                bytes=tuple(each.drawn.raw),
                top_logprobs=tuple(
                    TopLogprob(top.raw.decode(errors="replace"), _finite(top), tuple(top.raw))
                    for top in each.top
                ),
            )
            for each in found
        )
    )


class Offsets:
    """Tells where in its text each of a completion's tokens begins, in characters."""

    def __init__(self, *, top: bool) -> None:
        """`top`: the likeliest were asked for too."""
        self._top = top
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def logprobs(self, found: Iterable[TokenLogprobs]) -> CompletionLogprobs:
        """Of the tokens that follow those of earlier calls."""
        made = CompletionLogprobs([], [], [], [] if self._top else None)
        for each in found:
            made.text_offset.append(self._offset)
            made.token_logprobs.append(_finite(each.drawn))
            made.tokens.append(_shown(each.drawn.raw))
            if made.top_logprobs is not None:
                made.top_logprobs.append({_shown(top.raw): _finite(top) for top in each.top})
            self._offset += len(self._decoder.decode(each.drawn.raw))
        return made


def _shown(raw: bytes) -> str:
    """A token's text, or its bytes where they are a part of a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(found: Logprob) -> float:
    return max(found.logprob, _LEAST)
