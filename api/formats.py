"""What a response has to be, as `/generate` is asked for it."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.fields import Text
from api.finite import is_deeper
from api.grammar_process import MAX_DEPTH, MAX_PATTERN
from shared.job import Grammar, GrammarKind


def _plain_json(document: dict[str, Any]) -> dict[str, Any]:
    """Nothing that a JSON writer would stumble over."""
    if is_deeper(document, MAX_DEPTH):
        raise ValueError(f"A schema may be {MAX_DEPTH} levels deep.")
    json.dumps(document, allow_nan=False)
    return document


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
