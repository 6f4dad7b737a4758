"""Types of the fields that clients send, whichever protocol they speak."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.config import JsonDict

MAX_SEED: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
MAX_LOGPROBS: Final = 20
MAX_TOP_K: Final = 1_000_000
"""More than any vocabulary has."""


def no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("Text must not contain NUL.")
    return text


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


NO_NUL: Final[JsonDict] = {"pattern": r"^[^\u0000]*$"}
"""For readers of the schema; the check itself is `no_nul`, whose message people can read."""

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

Text = Annotated[str, Field(min_length=1, json_schema_extra=NO_NUL), AfterValidator(no_nul)]
StopString = Annotated[Text, Field(max_length=200)]
_STOP_STRING: Final[JsonDict] = {"type": "string", "minLength": 1, "maxLength": 200, **NO_NUL}
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

TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
