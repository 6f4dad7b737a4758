"""What happens to a job, as a versioned union discriminated by `type`.

An event's `seq` is its place in the job's log: 1, 2, 3, ... without gaps. It is also the
Redis stream id (`7` is `7-0`), the SSE `id:` and what `Last-Event-ID` names.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from shared.errors import DecodeError

VERSION: Final = 1


class FinishReason(StrEnum):
    STOP = "stop"
    """The model ended its answer, or a stop string was met."""
    LENGTH = "length"
    """`max_tokens` were generated, or the context is full."""
    CANCELLED = "cancelled"
    ERROR = "error"


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt's tokens, those whose prefill an earlier request had paid for."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Timings(msgspec.Struct, frozen=True):
    """Where the time of a job went, in seconds."""

    queue: float
    """From the API's acceptance to a worker's slot."""
    prefill: float
    """From the slot to the first token: loading the model, tokenizing, prefill."""
    decode: float
    """From the first token to the last."""
    total: float


class Logprob(msgspec.Struct, frozen=True):
    """A token's log probability, by the model alone: before penalties and temperature."""

    id: int
    raw: bytes
    """What the token stands for; perhaps a part of a character."""
    logprob: float


class TokenLogprobs(msgspec.Struct, frozen=True):
    drawn: Logprob
    top: tuple[Logprob, ...] = ()
    """The likeliest, in order."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    seq: int
    v: int = VERSION

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)


class Queued(Event, frozen=True, kw_only=True, tag="queued"):
    """Accepted. `position` jobs of the same model wait in front."""

    id: str
    model: str
    position: int
    estimate: float | None = None
    """Seconds that the wait may take, at the pace of late; None where none is known."""
    request_id: str = ""
    """Of the request that the job came with."""


class Loading(Event, frozen=True, kw_only=True, tag="loading"):
    """A worker took the job and is loading its model first."""

    model: str


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """Prefill begins."""

    prompt_tokens: int


class Token(Event, frozen=True, kw_only=True, tag="token"):
    """New tokens and the text they add. The response is the texts of these, in order.

    `text` is empty while a character or a stop string is undecided; `ids` is empty where
    text follows without a token: the echoed prompt, or what was held back until the end.
    """

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each id, where the request asked for them."""


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    """Another attempt, counted from 1, continues behind the tokens already in the log."""

    attempt: int


class Done(Event, frozen=True, kw_only=True, tag="done"):
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


class Failed(Event, frozen=True, kw_only=True, tag="error"):
    code: str
    message: str
    usage: Usage
    timings: Timings


class Cancelled(Event, frozen=True, kw_only=True, tag="cancelled"):
    usage: Usage
    timings: Timings


AnyEvent: TypeAlias = Queued | Loading | Started | Token | Resumed | Done | Failed | Cancelled
TERMINAL: Final = (Done, Failed, Cancelled)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    return _encoder.encode(event)


def decode(raw: bytes) -> AnyEvent:
    """Read an event.

    Raises:
        DecodeError: `raw` is not an event, or one of another version.
    """
    try:
        event = _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise DecodeError(f"not an event: {error}") from error
    if event.v != VERSION:
        raise DecodeError(f"event version {event.v}; this is version {VERSION}")
    return event


def is_terminal(event: AnyEvent) -> bool:
    return isinstance(event, TERMINAL)


def text_of(event: AnyEvent) -> str:
    """The text an event adds to the response."""
    return event.text if isinstance(event, Token) else ""
