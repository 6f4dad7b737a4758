"""The content of a message: a string, or parts of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from api.openai.fields import unsupported

_KNOWN: Final = {
    "file",
    "image_url",
    "input_audio",
    "input_file",
    "input_image",
    "input_video",
    "refusal",
    "video_url",
}
"""Kinds of parts that are no text; others are no kinds at all."""
_MEANINGLESS: Final = {"annotations", "logprobs", "prompt_cache_breakpoint"}
"""May come with a text, and would change nothing here."""
_TEXT_SCHEMA: Final = {"type": "string", "pattern": r"^[^\u0000]*$"}


@dataclass(frozen=True, slots=True)
class TextContent:
    """Marks a `str` that clients may also send as a list of parts, which become lines."""

    kinds: tuple[str, ...] = ("text",)
    """Types of the parts that hold text."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        part = {
            "type": "object",
            "required": ["type", "text"],
            "properties": {
                "type": {"enum": list(self.kinds)},
                "text": _TEXT_SCHEMA,
                **{name: {} for name in sorted(_MEANINGLESS)},
            },
            "additionalProperties": False,
        }
        return {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": part, "minItems": 1}]}

    def parse(self, value: object) -> str:
        if isinstance(value, str):
            return checked(value)
        if not isinstance(value, list) or not value:
            raise PydanticCustomError(
                "content_type", "Input should be a string or a list of parts that hold text."
            )
        return "\n".join(self._text(number, part) for number, part in enumerate(value))

    def _text(self, number: int, part: object) -> str:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in _KNOWN:
            raise unsupported(f"Part {number} is of type {kind}; only text is supported.")
        if not isinstance(part, dict) or kind not in self.kinds:
            names = " or ".join(self.kinds)
            raise PydanticCustomError(
                "part", "Part {number} has no type {names}.", {"number": number, "names": names}
            )
        text = part.get("text")
        if not isinstance(text, str) or part.keys() - {"type", "text"} - _MEANINGLESS:
            raise PydanticCustomError(
                "part", "Part {number} should have a text and nothing else.", {"number": number}
            )
        return checked(text)


def checked(text: str) -> str:
    """A text that can be stored and tokenized. For validators."""
    if "\0" in text:
        raise PydanticCustomError("string_nul", "Text must not contain NUL.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "No Unicode.") from None
    return text
