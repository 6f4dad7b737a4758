"""What clients send. Ranges are checked here and nowhere behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.draft import Draft
from api.finite import is_deeper
from api.grammar_process import MAX_DEPTH, MAX_PATTERN
from shared.job import Grammar, GrammarKind, Message, SamplingParams, new_seed

DEFAULT_MAX_TOKENS: Final = 256
MAX_SEED: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
MAX_LOGPROBS: Final = 20
MAX_TOP_K: Final = 1_000_000
"""More than any vocabulary has."""
MAX_MESSAGES: Final = 1_000

_EXAMPLE: Final[JsonDict] = {
    "prompt": "What is the capital of France?",
    "max_tokens": 64,
    "temperature": 0,
}


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("Text must not contain NUL.")
    return text


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain_json(document: dict[str, Any]) -> dict[str, Any]:
    """Nothing that a JSON writer would stumble over."""
    if is_deeper(document, MAX_DEPTH):
        raise ValueError(f"A schema may be {MAX_DEPTH} levels deep.")
    json.dumps(document, allow_nan=False)
    return document


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


_NO_NUL: Final[JsonDict] = {"pattern": r"^[^\u0000]*$"}
"""For readers of the schema; the check itself is `_no_nul`, whose message people can read."""

_WHOLE: Final = BeforeValidator(_whole)
"""64.0 is an integer to JSON Schema; "64" and true are not."""

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63), _WHOLE]
UpTo5 = Annotated[int, Field(ge=0, le=5), _WHOLE]
UpTo20 = Annotated[int, Field(ge=0, le=20), _WHOLE]
OneTo64 = Annotated[int, Field(ge=1, le=64), _WHOLE]
MaxTokens = Annotated[int, Field(ge=1), _WHOLE]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), _WHOLE]
TopK = Annotated[int, Field(ge=0, le=MAX_TOP_K), _WHOLE]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), _WHOLE]
Priority = Annotated[int, Field(ge=0, le=9), _WHOLE]

Text = Annotated[str, Field(min_length=1, json_schema_extra=_NO_NUL), AfterValidator(_no_nul)]
StopString = Annotated[Text, Field(max_length=200)]
_STOP_STRING: Final[JsonDict] = {"type": "string", "minLength": 1, "maxLength": 200, **_NO_NUL}
Stop = Annotated[
    list[StopString],
    Field(max_length=8),
    BeforeValidator(_one_or_many),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP_STRING,
                {"type": "array", "items": _STOP_STRING, "maxItems": 8},
            ]
        }
    ),
]


class MessageBody(BaseModel):
    """One turn of a conversation. What order roles may have is up to the model's template."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    # To count its characters, if only to none, pydantic has to see whether they are Unicode.
    content: Annotated[str, Field(min_length=0, json_schema_extra=_NO_NUL), AfterValidator(_no_nul)]


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


class _Format(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


class TextFormat(_Format):
    """Whatever the model says."""

    type: Literal["text"]

    def grammar(self) -> Grammar | None:
        return None


class JsonObjectFormat(_Format):
    """A JSON object of any kind."""

    type: Literal["json_object"]

    def grammar(self) -> Grammar | None:
        return Grammar(GrammarKind.JSON_OBJECT)


class JsonSchemaFormat(_Format):
    """JSON that a schema (draft 2020-12) describes. What can't be held to is refused."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], AfterValidator(_plain_json)] = Field(alias="schema")

    def grammar(self) -> Grammar | None:
        return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(self.json_schema))


class RegexFormat(_Format):
    """A text that a regular expression matches from its beginning to its end."""

    type: Literal["regex"]
    pattern: Annotated[Text, Field(max_length=MAX_PATTERN)]

    def grammar(self) -> Grammar | None:
        return Grammar(GrammarKind.REGEX, self.pattern)


class ChoiceFormat(_Format):
    """One of these texts."""

    type: Literal["choice"]
    choices: Annotated[list[Text], Field(min_length=1, max_length=1000)]

    def grammar(self) -> Grammar | None:
        return Grammar(GrammarKind.CHOICE, json.dumps(self.choices))


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | ChoiceFormat,
    Field(discriminator="type"),
]

TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


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
