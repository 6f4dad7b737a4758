"""A job: what to generate. Frozen; kept as JSON in the first entry of its event log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from shared.errors import DecodeError


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


class GrammarKind(StrEnum):
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"


class Grammar(msgspec.Struct, frozen=True):
    """What the response has to be. Checked before anything is queued."""

    kind: GrammarKind
    value: str = ""
    """A JSON Schema, a regular expression, or a JSON array of the choices."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn. Ranges are checked where requests enter (`api.fields`).

    The filters apply in this order, as in transformers: penalties, temperature, top_k,
    top_p, min_p. `repetition_penalty` looks at prompt and output (Keskar et al. 2019);
    `presence_penalty` and `frequency_penalty` at the output only (OpenAI's definition).
    """

    max_tokens: int
    temperature: float
    seed: int
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    """Added to tokens' logits before anything else."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told beside the one drawn; None: not even that one."""
    grammar: Grammar | None = None

    @property
    def greedy(self) -> bool:
        """Always the likeliest token; so near 0 that float32 could not tell the difference."""
        return self.temperature < 1e-5

    @property
    def penalized(self) -> bool:
        """Whether it matters which tokens there are already."""
        penalties = self.presence_penalty, self.frequency_penalty
        return self.repetition_penalty != 1 or any(penalties)


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    params: SamplingParams
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    """A conversation instead of a prompt, for the model's chat template."""
    prompt_ids: tuple[int, ...] = ()
    """Tokens instead of a prompt; they go to the model as they are."""
    raw: bool = False
    """True: the prompt goes to the model as it is, without its chat template."""
    echo: bool = False
    """True: the response begins with the prompt."""
    background: bool = False
    """True: the job goes on whether or not anybody follows it."""
    priority: int = 0
    """0 to 9; higher ones are served first."""
    client: str = ""
    key: str = ""
    """Id of the API key that it came with; its owner."""
    note: str = ""
    """What a protocol of the API keeps with its job."""
    webhook_url: str = ""
    """Where the job's end is told; of background jobs only."""
    request_id: str = ""
    created_at: float
    """Seconds since the epoch, on the API's clock."""
    trace: dict[str, str] = msgspec.field(default_factory=dict)
    """W3C trace context of the request's span (`shared.tracing`); empty: it is not traced."""

    @property
    def prompt_text(self) -> str:
        """The prompt as people read it; empty for one of tokens."""
        if self.messages:
            return "\n\n".join(f"{turn.role}: {turn.content}" for turn in self.messages)
        return self.prompt

    @property
    def trace_id(self) -> str:
        """As collectors show it; empty: it is not traced."""
        return trace_id(self.trace)


def new_job_id() -> str:
    """128 random bits: whoever does not hold an id can't guess it."""
    return "job-" + secrets.token_hex(16)


def new_seed() -> int:
    """A seed chosen for a request that names none, so that a resumed job draws alike."""
    return secrets.randbits(32)


def now() -> float:
    """Wall clock in seconds. Of this host: for what is told, never for what is decided."""
    return time.time()


def trace_id(context: Mapping[str, str]) -> str:
    """Of a W3C trace context; empty where there is none."""
    _, _, rest = context.get("traceparent", "").partition("-")
    return rest.partition("-")[0]


class _Owned(msgspec.Struct):
    key: str = ""


def owner(raw: bytes) -> str:
    """The API key that an encoded job belongs to; nothing else of it is read.

    Raises:
        DecodeError: `raw` is not a job.
    """
    try:
        return msgspec.json.decode(raw, type=_Owned).key
    except msgspec.DecodeError as error:
        raise DecodeError(f"not a generation job: {error}") from error


def encode(request: GenerationRequest) -> bytes:
    return msgspec.json.encode(request)


def decode(raw: bytes) -> GenerationRequest:
    """Read a job.

    Raises:
        DecodeError: `raw` is not a job of this version.
    """
    try:
        return msgspec.json.decode(raw, type=GenerationRequest)
    except msgspec.DecodeError as error:
        raise DecodeError(f"not a generation job: {error}") from error
