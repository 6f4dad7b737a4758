"""How bodies treat what OpenAI publishes and this service does not do: refused by name.

Nothing that would change the output is dropped in silence. What is ignored is a field of its own
in the bodies, whose description says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

PARAMETER: Final = "unsupported_parameter"
VALUE: Final = "unsupported_value"
"""Kinds of problems, and OpenAI's codes for them."""


def unsupported(message: str, *, kind: str = VALUE) -> PydanticCustomError:
    """What a validator raises; braces in `message` are no placeholders."""
    return PydanticCustomError(kind, "{message}", {"message": message})


@dataclass(frozen=True, slots=True)
class _Refused:
    why: str
    neutral: tuple[object, ...] = ()

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"enum": [None, *self.neutral], "description": f"Not supported. {self.why}"}

    def _check(self, value: object) -> None:
        if value is None or any(_same(value, each) for each in self.neutral):
            return
        raise unsupported(self.why, kind=VALUE if any(self.neutral) else PARAMETER)


def refused(why: str, *neutral: object) -> _Refused:
    """Mark a field whose values are refused by name, but null and those that ask for nothing.

    `tools: Annotated[None, refused("No tools are called.", [])] = None`
    """
    return _Refused(why, neutral)


def _same(value: object, other: object) -> bool:
    """JSON's sameness: true is not 1."""
    return type(value) is type(other) and value == other
