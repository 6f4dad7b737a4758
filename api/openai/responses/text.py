"""`text` of a request: what the response has to be."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, field_validator

from api.openai.content import checked
from api.openai.fields import STRICT, refused
from api.openai.formats import Name, Strict, schema_grammar
from shared.job import Grammar, GrammarKind


class PlainText(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    type: Literal["text"]

    def grammar(self) -> Grammar | None:
        return None


class TextJsonObject(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    type: Literal["json_object"]

    def grammar(self) -> Grammar | None:
        return Grammar(GrammarKind.JSON_OBJECT)


class TextJsonSchema(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON Schema.")
    description: Annotated[str, AfterValidator(checked)] | None = Field(
        None, description="Ignored, and repeated: the model is not shown it."
    )
    strict: Strict = None

    @field_validator("schema_")
    @classmethod
    def _is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        schema_grammar(value)
        return value

    def grammar(self) -> Grammar | None:
        return schema_grammar(self.schema_)


Format = Annotated[PlainText | TextJsonObject | TextJsonSchema, Discriminator("type")]


class TextConfig(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    format: Format = Field(default_factory=lambda: PlainText(type="text"))
    verbosity: Annotated[None, refused("The models here are as verbose as they are.", "medium")] = (
        None
    )

    def echo(self) -> dict[str, Any]:
        """As the response object repeats it."""
        return {"format": self.format.model_dump(by_alias=True), "verbosity": "medium"}
