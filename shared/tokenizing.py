"""What the API asks of a model's tokenizer, and what a worker answers.

The API has no tokenizer. Nothing of this lasts: a question that nobody has answered in time is
forgotten, and may be asked again.
"""

from __future__ import annotations

import secrets
from typing import Final, TypeAlias

import msgspec

from shared.errors import DecodeError
from shared.job import Message

TTL: Final = 10
"""Seconds that a question waits for a worker, and an answer for whoever has asked."""


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize", omit_defaults=True):
    """A prompt or a conversation, as in `GenerationRequest`."""

    model: str
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    raw: bool = False
    add_special: bool = True
    """False: without what the tokenizer puts around a raw prompt."""


class Detokenize(msgspec.Struct, frozen=True, kw_only=True, tag="detokenize"):
    model: str
    tokens: tuple[int, ...]


Question: TypeAlias = Tokenize | Detokenize


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    tokens: tuple[int, ...]


class Text(msgspec.Struct, frozen=True, tag="text"):
    text: str


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    code: str
    message: str


Answer: TypeAlias = Tokens | Text | Refusal

_encoder = msgspec.json.Encoder()
_questions: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def new_question_id() -> str:
    return secrets.token_hex(16)


def encode(message: Question | Answer) -> bytes:
    return _encoder.encode(message)


def decode_question(raw: bytes) -> Question:
    """Read a question.

    Raises:
        DecodeError: `raw` is none of this version.
    """
    try:
        return _questions.decode(raw)
    except msgspec.DecodeError as error:
        raise DecodeError(f"not a question: {error}") from error


def decode_answer(raw: bytes) -> Answer:
    """Read an answer.

    Raises:
        DecodeError: `raw` is none of this version.
    """
    try:
        return _answers.decode(raw)
    except msgspec.DecodeError as error:
        raise DecodeError(f"not an answer: {error}") from error
