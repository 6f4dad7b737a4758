"""What clients send. Ranges are checked here and nowhere behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.draft import Draft
from api.fields import (
    NO_NUL,
    Bias,
    Logprobs,
    MaxTokens,
    Priority,
    Seed,
    Stop,
    Text,
    TokenId,
    TopK,
    no_nul,
)
from api.formats import ResponseFormat
from shared.job import Message, SamplingParams, new_seed

DEFAULT_MAX_TOKENS: Final = 256
MAX_MESSAGES: Final = 1_000

_EXAMPLE: Final[JsonDict] = {
    "prompt": "What is the capital of England?",
    "max_tokens": 64,
    "temperature": 0,
}


class MessageBody(BaseModel):
    """One turn of a conversation. What order roles may have is up to the model's template."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    # To count its characters, if only to none, pydantic has to see whether they are Unicode.
    content: Annotated[str, Field(min_length=0, json_schema_extra=NO_NUL), AfterValidator(no_nul)]


_PROMPT_OR_MESSAGES: Final[JsonDict] = {
    "oneOf": [
        {"required": ["prompt"], "not": {"required": ["messages"]}},
        {
            "required": ["messages"],
            "properties": {"echo": {"const": False}, "raw": {"const": False}},
        },
    ]
}


def fingerprint(body: BaseModel, *, exclude: Collection[str] = ()) -> str:
    """Of what a client has sent, also where it is no text that UTF-8 could hold."""
    return hashlib.sha256(json.dumps(body.model_dump(exclude=set(exclude))).encode()).hexdigest()


class GenerateBody(BaseModel):
    """A prompt or a conversation, and how to continue it. Nothing else is required."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"examples": [_EXAMPLE], **_PROMPT_OR_MESSAGES},
    )

    prompt: Text = Field(
        default_factory=str, description="What the model answers, or continues if `raw`."
    )
    messages: list[MessageBody] = Field(
        default_factory=list,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="A conversation instead of a prompt: what the model answers is its end. The "
        "model needs a chat template.",
    )
    model: str | None = Field(
        None, description="A name from `GET /models`. Absent: the default model."
    )
    max_tokens: MaxTokens | None = Field(
        None,
        description=f"Tokens to generate at most. Absent: {DEFAULT_MAX_TOKENS}, or the service's "
        "own limit if that is lower.",
    )
    temperature: float = Field(
        0.7, ge=0, le=2, description="0 always takes the likeliest token; higher is more varied."
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the likeliest tokens that together reach this."
    )
    top_k: TopK = Field(0, description="Draw from this many tokens. 0: from all.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Drop tokens less likely than this share of the likeliest."
    )
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=2, description="Above 1: tokens of prompt and response become less likely."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from tokens that the response has."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted for each time that the response has a token."
    )
    seed: Seed | None = Field(None, description="Same seed, same response. Absent: one is chosen.")
    stop: Stop = Field(
        default_factory=list,
        description="Generation ends before any of these; they are not in the response.",
    )
    response_format: ResponseFormat | None = Field(
        None, description="What the response has to be. Absent: whatever the model says."
    )
    logprobs: Logprobs | None = Field(
        None,
        description="Tell each token's log probability, and those of this many likeliest ones.",
    )
    logit_bias: Annotated[
        dict[TokenId, Bias],
        Field(max_length=300, json_schema_extra={"additionalProperties": False}),
    ] = Field(
        default_factory=dict,
        description="Added to the logits of tokens, by their ids: -100 forbids one, 100 forces it.",
    )
    echo: bool = Field(False, description="Put the prompt before the response.")
    raw: bool = Field(False, description="Give the prompt to the model without its chat template.")
    background: bool = Field(
        False,
        description="The job goes on whether or not anybody follows it; without, it is cancelled "
        "a while after the last one has left. `POST /jobs` always submits so.",
    )
    priority: Priority = Field(
        0, description="Higher ones are served first. The service may allow less than 9."
    )
    ttl: float | None = Field(
        None,
        ge=1,
        description="Seconds that the job may wait for a worker before it ends as `expired`. "
        "Absent: as long as the service allows.",
    )
    webhook_url: Annotated[Text, Field(max_length=2000)] | None = Field(
        None,
        description="Where a background job's end is told: a signed POST of what "
        "`GET /jobs/{id}` says then. Only where the service's operator allows it.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if not self.model_fields_set & {"prompt", "messages"}:
            raise _refusal("prompt", "missing")
        if self.messages:
            for name in ("prompt", "echo", "raw"):
                if getattr(self, name):
                    raise _refusal(name, PydanticCustomError("misplaced", "Not with `messages`."))
        return self

    def draft(self, max_tokens: int) -> Draft:
        """`max_tokens` is what the service allows."""
        return Draft(
            params=self.params(max_tokens),
            fingerprint=fingerprint(self),
            model=self.model,
            prompt=self.prompt,
            messages=tuple(Message(turn.role, turn.content) for turn in self.messages),
            raw=self.raw,
            echo=self.echo,
            background=self.background,
            priority=self.priority,
            ttl=self.ttl,
            webhook_url=self.webhook_url or "",
        )

    def params(self, max_tokens: int) -> SamplingParams:
        """`max_tokens` is what the service allows."""
        return SamplingParams(
            max_tokens=self.max_tokens or min(DEFAULT_MAX_TOKENS, max_tokens),
            temperature=self.temperature,
            seed=new_seed() if self.seed is None else self.seed,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            stop=tuple(self.stop),
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
            logprobs=self.logprobs,
            grammar=self.response_format.grammar() if self.response_format else None,
        )


def _refusal(field: str, kind: str | PydanticCustomError) -> ValidationError:
    """Names a field, where a model's own validator could only blame the whole body."""
    problem = InitErrorDetails(type=kind, loc=(field,), input=None)
    return ValidationError.from_exception_data(GenerateBody.__name__, [problem])
