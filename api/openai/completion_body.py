"""The body of `POST /v1/completions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import (
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

from api.draft import Draft
from api.fields import MaxTokens, UpTo5
from api.openai.body import (
    MAX_CHOICES,
    ONLY_STREAMS_HAVE_OPTIONS,
    Body,
    bounded,
    invalid,
)
from api.openai.content import checked
from api.openai.fields import refused, unsupported
from shared.settings import Settings

DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's."""
_MAX_TOKEN: Final = 2**31 - 1
_EXAMPLE: Final[JsonDict] = {
    "model": "smollm2-135m",
    "prompt": "Once upon a time",
    "max_tokens": 32,
}

_TEXT: Final[JsonDict] = {"type": "string", "minLength": 1, "pattern": r"^[^\u0000]*$"}
_TEXTS: Final[JsonDict] = {"type": "array", "minItems": 1, "maxItems": MAX_CHOICES, "items": _TEXT}
_TOKENS: Final[JsonDict] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": _MAX_TOKEN},
}
_ONLY_TEXT_IS_ECHOED: Final[JsonDict] = {
    "anyOf": [
        {"properties": {"echo": {"enum": [None, False]}}},
        {"properties": {"logprobs": {"type": "null"}, "prompt": {"anyOf": [_TEXT, _TEXTS]}}},
    ]
}
"""For readers of the schema, as `ONLY_STREAMS_HAVE_OPTIONS`."""

Prompt: TypeAlias = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Marks the prompts of a request: one or many, each of text or of tokens."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._parse)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [_TEXT, _TEXTS, _TOKENS, {**_TEXTS, "items": _TOKENS}]}

    def _parse(self, value: object) -> tuple[Prompt, ...]:
        if isinstance(value, str):
            return (_text(value),)
        if not isinstance(value, list) or not value:
            raise _no_prompt()
        if isinstance(value[0], int | float):
            return (_tokens(value),)
        if len(value) > MAX_CHOICES:
            raise PydanticCustomError("too_long", "At most {n} prompts.", {"n": MAX_CHOICES})
        if isinstance(value[0], str):
            return tuple(_text(each) for each in value)
        return tuple(_tokens(each) for each in value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _no_prompt()
    return checked(value)


def _tokens(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise _no_prompt()
    return tuple(_token(each) for each in value)


def _token(value: object) -> int:
    """1.0 is an integer to JSON Schema, as in `api.schemas`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKEN:
        token = int(value)
        if token == value:
            return token
    raise _no_prompt()


def _no_prompt() -> PydanticCustomError:
    return PydanticCustomError(
        "prompt_type", "Input should be a text, a list of token ids, or a list of either."
    )


class CompletionBody(Body):
    """A text, and how to continue it. `model` and `prompt` are required."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [_EXAMPLE],
            "allOf": [ONLY_STREAMS_HAVE_OPTIONS, _ONLY_TEXT_IS_ECHOED],
        }
    )

    prompt: Annotated[tuple[Prompt, ...], _Prompts()] = Field(
        description="It goes to the model as it is, without a chat template."
    )
    max_tokens: MaxTokens | None = Field(None, description=f"Absent: {DEFAULT_MAX_TOKENS}.")
    logprobs: UpTo5 | None = Field(
        None, description="Tell this many of the likeliest tokens, at each."
    )
    echo: bool | None = Field(
        None,
        description="Put the prompt before the response. Not with `logprobs`: those of a prompt "
        "are not computed. Not with prompts of token ids.",
    )
    best_of: Annotated[None, refused("Nothing is ranked here.", 1)] = None
    suffix: Annotated[None, refused("Text is continued, not filled in.", "")] = None

    @field_validator("echo")
    @classmethod
    def _echoes_text(cls, echo: bool | None, info: ValidationInfo) -> bool | None:  # noqa: FBT001 (pydantic's)
        if echo and info.data.get("logprobs") is not None:
            raise unsupported("Log probabilities of a prompt are not computed.")
        if echo and not all(isinstance(prompt, str) for prompt in info.data.get("prompt", ())):
            raise unsupported("Only a prompt of text can be put before the response.")
        return echo

    def drafts(self, settings: Settings) -> list[Draft]:
        """Jobs for the choices of the first prompt, then of the next.

        Raises:
            InvalidRequestError: they are too many, or too long.
        """
        count = self.n or 1
        if count * len(self.prompt) > MAX_CHOICES:
            raise invalid(["n"], f"At most {MAX_CHOICES} choices are made for all prompts.")
        max_tokens = bounded(
            {"max_tokens": self.max_tokens}, settings.max_tokens, default=DEFAULT_MAX_TOKENS
        )
        fingerprint = self.fingerprint
        return [
            Draft(
                params=self.sampling(choice, max_tokens=max_tokens, logprobs=self.logprobs),
                fingerprint=fingerprint,
                model=self.model,
                prompt=prompt if isinstance(prompt, str) else "",
                prompt_ids=() if isinstance(prompt, str) else prompt,
                raw=True,
                echo=bool(self.echo),
                background=bool(self.background),
                priority=self.priority or 0,
                ttl=self.ttl,
            )
            for prompt in self.prompt
            for choice in range(count)
        ]
