"""From a job's grammar to what holds tokens to it. The API checks with it, the worker generates.

llguidance does the work: a parser and a lexer in Rust, built as they are needed, that know of
every token whether it may come next. A matcher never raises for what a client sent; it is in
an error from then on, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from

from shared.errors import InvalidGrammarError
from shared.job import Grammar, GrammarKind

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_LAYOUT: Final[JsonCompileOptions] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""As Python writes JSON. Where any white space is allowed, a small model may write nothing else."""

_ANY_OBJECT: Final = '{"type": "object"}'
_MAX_MESSAGE: Final = 300
_EXCERPT: Final = re.compile(r"\s*\d+ \| ")
_POSITION: Final = re.compile(r"^(at )?\d+\(\d+\): ")

BYTES_EOS: Final = 0
"""The end of sequence of `byte_tokenizer`. No text of ours holds NUL."""


def matcher(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """At the beginning of a response. Takes milliseconds, or tenths of a second for large ones.

    Raises:
        InvalidGrammarError: nothing fits it, it is none, or the library can't hold anybody to it.
    """
    try:
        found = LLMatcher(tokenizer, _notation(grammar), log_level=0, limits=_limits())
    except ValueError as error:  # a number or a text that JSON's reader in Rust refuses
        raise InvalidGrammarError(_told(str(error))) from error
    raise_for(found)
    return found


def raise_for(found: LLMatcher) -> None:
    """Complain of an error that the matcher has met.

    Raises:
        InvalidGrammarError: it has met one.
    """
    if found.is_error():
        raise InvalidGrammarError(_told(found.get_error()))


def byte_tokenizer() -> LLTokenizer:
    """Tokens of one byte, for whoever has no model at hand."""
    return LLTokenizer(_Bytes())  # type: ignore[arg-type]  # what it asks for, without the base


class _Bytes:
    eos_token_id: int = BYTES_EOS
    bos_token_id: int | None = None
    special_token_ids: Sequence[int] = (BYTES_EOS,)
    is_tokenizer_wrapper = True

    @property
    def tokens(self) -> list[bytes]:
        return [b"<end>", *(bytes([value]) for value in range(1, 256))]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _notation(grammar: Grammar) -> str:
    """In the library's own words."""
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return LLMatcher.grammar_from_json_schema(_ANY_OBJECT, overrides=_LAYOUT)
        case GrammarKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(grammar.value, overrides=_LAYOUT)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.value)
        case GrammarKind.CHOICE:
            return grammar_from("choice", grammar.value)


def _limits() -> LLParserLimits:
    """Of memory and of time for each step: a hostile grammar costs its own job, no other."""
    return LLParserLimits(
        max_grammar_size=200_000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        verbose_errors=False,
    )


def _told(message: str) -> str:
    """What the library says, without the excerpt that it draws of the grammar."""
    lines = message.replace("<non-verbose/>", "").splitlines()
    lines = [line.strip() for line in lines if not _EXCERPT.match(line)]
    words = _POSITION.sub("", " ".join(line for line in lines if line.strip("^ ")))
    if not words or words.startswith("NoExtension"):
        return "Nothing fits this grammar."
    return f"This grammar can't be used: {words[:_MAX_MESSAGE]}"
