"""What a response has to be, as OpenAI's bodies say it."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from api.openai.fields import STRICT
from shared.job import Grammar, GrammarKind

_MAX_DEPTH: Final = 100
"""Objects and arrays inside each other in a schema."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Description = Annotated[
    str | None,
    Field(description="Ignored: a schema bounds what is generated; the model is not shown it."),
]
Strict = Annotated[
    bool | None, Field(description="Ignored: a schema is always held to, strict or not.")
]


class JsonSchemaFormat(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    name: Name
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON Schema.")
    description: Description = None
    strict: Strict = None


_TYPE_AND_SCHEMA: Final[JsonDict] = {
    "anyOf": [
        {
            "properties": {"type": {"const": "json_schema"}, "json_schema": {"type": "object"}},
            "required": ["json_schema"],
        },
        {
            "properties": {
                "type": {"enum": ["text", "json_object"]},
                "json_schema": {"type": "null"},
            }
        },
    ]
}


class ResponseFormat(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT | {"json_schema_extra": _TYPE_AND_SCHEMA}

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = Field(
        None, description="Needed by the type of this name."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "json_schema", "The type json_schema needs a json_schema, and no other has one."
            )
        self.grammar()
        return self

    def grammar(self) -> Grammar | None:
        if self.type == "json_object":
            return Grammar(GrammarKind.JSON_OBJECT)
        return schema_grammar(self.json_schema.schema_) if self.json_schema else None


def schema_grammar(schema: dict[str, Any]) -> Grammar:
    """Raises PydanticCustomError: it can't be written as JSON. For validators."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()  # lone surrogates are a ValueError too
        _measure(schema, _MAX_DEPTH)
    except (RecursionError, ValueError):
        raise PydanticCustomError("schema", "The schema is not JSON, or nested too deep.") from None
    return Grammar(GrammarKind.JSON_SCHEMA, text)


def _measure(value: object, depth: int) -> None:
    """Raises ValueError: it is nested deeper. Serializers have limits of their own."""
    if depth < 0:
        raise ValueError
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _measure(each, depth - 1)
