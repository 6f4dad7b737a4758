"""What clients send. Ranges are checked here and nowhere behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from api.draft import Draft
from shared.job import SamplingParams, new_seed

DEFAULT_MAX_TOKENS: Final = 256
MAX_SEED: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
MAX_TOP_K: Final = 1_000_000
"""More than any vocabulary has."""

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


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


_NO_NUL: Final[JsonDict] = {"pattern": r"^[^\u0000]*$"}
"""For readers of the schema; the check itself is `_no_nul`, whose message people can read."""

_WHOLE: Final = BeforeValidator(_whole)
"""64.0 is an integer to JSON Schema; "64" and true are not."""

Whole = Annotated[int, _WHOLE]
MaxTokens = Annotated[int, Field(ge=1), _WHOLE]
TopLogprobs = Annotated[int, Field(ge=0, le=20), _WHOLE]
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


def fingerprint(body: BaseModel, *, exclude: Collection[str] = ()) -> str:
    """Of what a client has sent, also where it is no text that UTF-8 could hold."""
    return hashlib.sha256(json.dumps(body.model_dump(exclude=set(exclude))).encode()).hexdigest()


class GenerateBody(BaseModel):
    """A prompt and how to continue it. Only `prompt` is required."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"examples": [_EXAMPLE]},
    )

    prompt: Text = Field(description="What the model answers, or continues if `raw`.")
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

    def draft(self, max_tokens: int) -> Draft:
        """`max_tokens` is what the service allows."""
        return Draft(
            params=self.params(max_tokens),
            fingerprint=fingerprint(self),
            model=self.model,
            prompt=self.prompt,
            raw=self.raw,
            echo=self.echo,
            background=self.background,
            priority=self.priority,
            ttl=self.ttl,
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
        )
