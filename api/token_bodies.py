"""What clients send to be tokenized, and what they get back."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field
from pydantic.config import JsonDict

from api.errors import FieldProblem, InvalidRequestError
from api.fields import Text
from api.schemas import MAX_MESSAGES, MessageBody
from shared.job import Message
from shared.tokenizing import Detokenize, Tokenize

MAX_TOKEN: Final = 2**31 - 1


def _whole(value: object) -> object:
    """As for single integers, of which 1.0 is one. Most lists have none, and that is soon seen."""
    if isinstance(value, list) and float in set(map(type, value)):
        return [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]
    return value


TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_TOKEN)]],
    FailFast(),  # the first wrong one is enough: there may be hundreds of thousands
    BeforeValidator(_whole),
]

_COMBINATIONS: Final[JsonDict] = {
    "oneOf": [
        {
            "required": ["prompt"],
            "not": {"required": ["messages"]},
            "anyOf": [
                {"properties": {"add_special": {"const": True}}},
                {"properties": {"raw": {"const": True}}, "required": ["raw"]},
            ],
        },
        {
            "required": ["messages"],
            "not": {"required": ["prompt"]},
            "properties": {"raw": {"const": False}, "add_special": {"const": True}},
        },
    ]
}


class TokenizeBody(BaseModel):
    """A prompt or a conversation, as for a generation."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"prompt": "What is the capital of England?"}],
            **_COMBINATIONS,
        },
    )

    prompt: Text = Field(default_factory=str, description="As a generation gets it.")
    messages: list[MessageBody] = Field(
        default_factory=list,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="A conversation instead of a prompt, for the model's chat template.",
    )
    model: str | None = Field(
        None, description="A name from `GET /models`. Absent: the default model."
    )
    raw: bool = Field(False, description="The prompt goes to the model without its chat template.")
    add_special: bool = Field(
        True,
        description="Whether a `raw` prompt gets the tokens that the model's tokenizer puts around "
        "one, as in a generation.",
    )

    def question(self, model: str) -> Tokenize:
        """Check what no field can know of another.

        Raises:
            InvalidRequestError: the fields do not fit together.
        """
        given = self.model_fields_set
        if not given & {"prompt", "messages"}:
            raise InvalidRequestError([FieldProblem("prompt", "This field is required.")])
        unfit = []
        if self.messages:
            unfit = [name for name in ("prompt", "raw") if getattr(self, name)]
        if unfit:
            raise InvalidRequestError([FieldProblem(n, "Not with `messages`.") for n in unfit])
        if not (self.add_special or self.raw):
            raise InvalidRequestError([FieldProblem("add_special", "False only with `raw`.")])
        return Tokenize(
            model=model,
            prompt=self.prompt,
            messages=tuple(Message(turn.role, turn.content) for turn in self.messages),
            raw=self.raw,
            add_special=self.add_special,
        )


class DetokenizeBody(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"tokens": [504, 3575]}]}
    )

    tokens: TokenIds = Field(description="Ids of the model's tokens.")
    model: str | None = Field(
        None, description="A name from `GET /models`. Absent: the default model."
    )

    def question(self, model: str) -> Detokenize:
        return Detokenize(model=model, tokens=tuple(self.tokens))


class TokensView(BaseModel):
    tokens: list[int] = Field(examples=[[504, 3575, 282, 4649]])
    count: int = Field(description="How many these are: the `prompt_tokens` of a generation.")

    @classmethod
    def of(cls, tokens: tuple[int, ...]) -> Self:
        return cls(tokens=list(tokens), count=len(tokens))


class TextView(BaseModel):
    text: str = Field(
        description="With the model's special tokens, as the template or the tokenizer writes them."
    )
