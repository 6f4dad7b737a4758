"""A response's input: a text, or a conversation's items."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.openai.content import TextContent
from api.openai.fields import STRICT, unsupported
from api.openai.responses.ids import input_id
from api.openai.responses.note import ResponseNote
from api.openai.responses.views import (
    InputMessageView,
    InputTextView,
    OutputMessageView,
    OutputTextView,
)
from shared.job import GenerationRequest, Message

_IGNORED = "Ignored: what an output has beside its text may be sent back with it."


class InputMessage(BaseModel):
    """A message, as written by hand or as an earlier response's output has it."""

    model_config: ClassVar[ConfigDict] = STRICT

    role: Literal["user", "assistant", "system", "developer"] = Field(
        description="`developer` is the same as `system`."
    )
    content: Annotated[str, TextContent(("input_text", "output_text"))]
    type: Literal["message"] = "message"
    id: str | None = Field(None, description=_IGNORED)
    status: str | None = Field(None, description=_IGNORED)
    phase: str | None = Field(None, description=_IGNORED)

    def message(self) -> Message:
        return Message("system" if self.role == "developer" else self.role, self.content)


def _messages_only(item: object) -> object:
    kind = item.get("type", "message") if isinstance(item, dict) else "message"
    if kind != "message":
        if not isinstance(kind, str):
            raise PydanticCustomError("item", "The type of an item should be a string.")
        raise unsupported("Only items of type message are supported.")
    return item


def _one_or_many(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Input = Annotated[
    list[Annotated[InputMessage, BeforeValidator(_messages_only)]],
    Field(min_length=1),
    BeforeValidator(
        _one_or_many, json_schema_input_type=Annotated[str, Field()] | list[InputMessage]
    ),
]


def items(request: GenerationRequest, note: ResponseNote) -> list[Any]:
    """What a response was made of, but for its instructions; oldest first."""
    return [
        _item(input_id(request.id, number), message)
        for number, message in enumerate(request.messages[note.instructed :])
    ]


def _item(item_id: str, message: Message) -> InputMessageView | OutputMessageView:
    if message.role == "assistant":
        text = OutputTextView(text=message.content)
        return OutputMessageView(id=item_id, status="completed", content=[text])
    return InputMessageView(
        id=item_id,
        role="user" if message.role == "user" else "system",
        content=[InputTextView(text=message.content)],
    )
