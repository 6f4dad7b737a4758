"""What chat completions and completions have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from api.errors import FieldProblem, InvalidRequestError
from api.fields import MAX_SEED, Int64, OneTo64, Priority, Stop, TopK
from api.openai.fields import STRICT
from api.schemas import fingerprint
from shared.job import Grammar, SamplingParams, new_seed

MAX_CHOICES: Final = 64
"""Jobs that one request may become: their ids have to fit a header."""
_MAX_BIASES: Final = 300
_MAX_TOKEN_ID: Final = 9_999_999
"""More than any vocabulary has."""
_MAX_BIAS: Final = 100

ONLY_STREAMS_HAVE_OPTIONS: Final[JsonDict] = {
    "anyOf": [
        {"properties": {"stream_options": {"type": "null"}}},
        {"properties": {"stream": {"const": True}}, "required": ["stream"]},
    ]
}
"""For readers of the schema; the check itself is a validator, whose message people can read."""


@dataclass(frozen=True, slots=True)
class _LogitBias:
    """Marks a dict whose keys come as strings."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._parse)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        bias = {"type": "number", "minimum": -_MAX_BIAS, "maximum": _MAX_BIAS}
        return {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,7}$"},
            "additionalProperties": bias,
            "maxProperties": _MAX_BIASES,
        }

    def _parse(self, value: object) -> dict[int, float]:
        if not isinstance(value, dict):
            raise PydanticCustomError("dict_type", "Input should be an object.")
        if len(value) > _MAX_BIASES:
            raise PydanticCustomError("too_long", "At most {n} tokens.", {"n": _MAX_BIASES})
        return {self._token(token): self._bias(bias) for token, bias in value.items()}

    def _token(self, token: str) -> int:
        if token.isascii() and token.isdigit() and len(token) <= len(str(_MAX_TOKEN_ID)):
            return int(token)
        raise PydanticCustomError("token", "Its names should be ids of tokens.")

    def _bias(self, bias: object) -> float:
        if isinstance(bias, int | float) and not isinstance(bias, bool) and abs(bias) <= _MAX_BIAS:
            return float(bias)
        raise PydanticCustomError("bias", "Its values should be numbers from -100 to 100.")


class StreamOptions(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    include_usage: bool | None = Field(
        None, description="A last chunk without choices tells the usage."
    )
    include_obfuscation: bool | None = Field(
        None,
        description="Chunks are padded to sizes that say little about the text. Absent: they are "
        "not.",
    )


class Body(BaseModel):
    """Fields of both endpoints; null is as good as absent."""

    model_config: ClassVar[ConfigDict] = STRICT

    model: str = Field(description="A name from `GET /v1/models`.")
    temperature: float | None = Field(None, ge=0, le=2, description="Absent: 1.")
    top_p: float | None = Field(None, gt=0, le=1, description="Absent: 1.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[int, float], _LogitBias()] | None = Field(
        None, description="Token ids of this model, and what is added to their logits."
    )
    seed: Int64 | None = Field(
        None,
        description="Same seed, same response. Absent: one is chosen. Further choices draw from "
        "seeds that follow from it.",
    )
    stop: Stop | None = Field(None, description="At most 8; they are not in the response.")
    n: OneTo64 | None = Field(None, description="Choices, each a job of its own. Absent: 1.")
    stream: bool | None = Field(None, description="Chunks as they are generated.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    user: str | None = Field(None, description="Ignored: limits are counted for the caller.")

    top_k: TopK | None = Field(None, description="Not OpenAI's. As for `POST /generate`.")
    min_p: float | None = Field(None, ge=0, le=1, description="Not OpenAI's, likewise.")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=2, description="Not OpenAI's, likewise."
    )
    background: bool | None = Field(
        None, description="Not OpenAI's. The job goes on whether or not anybody follows it."
    )
    priority: Priority | None = Field(None, description="Not OpenAI's. As for `POST /generate`.")
    ttl: float | None = Field(None, ge=1, description="Not OpenAI's, likewise.")

    @field_validator("stream_options")
    @classmethod
    def _only_of_streams(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise PydanticCustomError("stream_options", "Only a stream has options: set `stream`.")
        return options

    @property
    def fingerprint(self) -> str:
        """What a request asks for. How it is answered may change when it is sent again."""
        return fingerprint(self, exclude={"stream", "stream_options"})

    def sampling(
        self,
        choice: int,
        *,
        max_tokens: int,
        logprobs: int | None,
        grammar: Grammar | None = None,
    ) -> SamplingParams:
        """How the choice of this number is drawn."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            seed=new_seed() if self.seed is None else derived_seed(self.seed, choice),
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            stop=tuple(self.stop or ()),
            logit_bias=self.logit_bias or {},
            logprobs=logprobs,
            grammar=grammar,
        )


def derived_seed(seed: int, choice: int) -> int:
    """Of a request's choice; the first has the request's own, if that is one of ours."""
    if choice == 0 and 0 <= seed <= MAX_SEED:
        return seed
    digest = hashlib.sha256(f"{seed} {choice}".encode()).digest()
    return int.from_bytes(digest[:8]) & MAX_SEED


def bounded(given: dict[str, int | None], limit: int, *, default: int) -> int:
    """The least of the bounds that a body sets, or `default`.

    Raises:
        InvalidRequestError: one is above `limit`, which is what the service allows.
    """
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    too_large = [name for name, bound in bounds.items() if bound > limit]
    if too_large:
        raise invalid(too_large, f"At most {limit} are allowed.")
    return min(bounds.values(), default=min(default, limit))


def invalid(names: Sequence[str], message: str) -> InvalidRequestError:
    return InvalidRequestError([FieldProblem(name, message) for name in names])
