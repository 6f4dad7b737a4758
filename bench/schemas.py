"""Twenty JSON Schemas as people write them, each with what to ask for."""

from __future__ import annotations

from typing import Any, Final

_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 24}
_COUNT: Final = {"type": "integer", "minimum": 0, "maximum": 9999}
"""A small model that may write digits without end does."""
_LINE: Final = {"type": "string", "maxLength": 60}


def _object(**properties: Any) -> dict[str, Any]:
    """As OpenAI's strict mode has objects: nothing optional, nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Any, most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


SCHEMAS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "person": (
        "Describe a person.",
        _object(name=_NAME, age={"type": "integer", "minimum": 0, "maximum": 120}),
    ),
    "nested": (
        "Write down a company's address.",
        _object(
            company=_NAME,
            address=_object(
                street=_NAME,
                city=_NAME,
                geo=_object(lat=_COUNT, lon=_COUNT),
            ),
        ),
    ),
    "enum": (
        "What is the weather like?",
        _object(sky={"enum": ["clear", "cloudy", "overcast"]}, windy={"type": "boolean"}),
    ),
    "mixed-enum": (
        "Pick a value.",
        _object(value={"enum": ["one", 2, None, True, [3], {"four": 4}]}),
    ),
    "const": ("Report an event.", _object(kind={"const": "event"}, level=_COUNT)),
    "array": ("List three colours.", _object(colours=_list(_NAME, most=3, least=3))),
    "array-of-objects": (
        "Write a shopping list.",
        _object(
            items=_list(
                _object(name=_NAME, count={"type": "integer", "minimum": 1, "maximum": 99}),
                most=3,
                least=1,
            )
        ),
    ),
    "tuple": (
        "Name a city with its population.",
        {
            "type": "array",
            "prefixItems": [_NAME, _COUNT],
            "items": False,
            "minItems": 2,
        },
    ),
    "matrix": (
        "Write a matrix of two rows.",
        _object(
            rows=_list(
                _list({"type": "integer", "minimum": -9, "maximum": 9}, most=2, least=2),
                most=2,
                least=2,
            )
        ),
    ),
    "union": (
        "Answer with a number or a word.",
        _object(answer={"anyOf": [_COUNT, _NAME, {"type": "null"}]}),
    ),
    "tagged-union": (
        "Describe a shape.",
        {
            "anyOf": [
                _object(shape={"const": "circle"}, radius=_COUNT),
                _object(
                    shape={"const": "rectangle"},
                    width=_COUNT,
                    height=_COUNT,
                ),
            ]
        },
    ),
    "one-of": (
        "How is it paid for?",
        {
            "oneOf": [
                _object(
                    method={"const": "card"}, last4={"type": "string", "pattern": "^[0-9]{4}$"}
                ),
                _object(method={"const": "cash"}),
            ]
        },
    ),
    "all-of": (
        "Describe a book.",
        {
            "allOf": [
                {"type": "object", "properties": {"title": _NAME}, "required": ["title"]},
                {
                    "type": "object",
                    "properties": {"year": {"type": "integer", "minimum": 1450, "maximum": 2030}},
                    "required": ["year"],
                },
            ],
            "properties": {"title": True, "year": True},
            "additionalProperties": False,
        },
    ),
    "patterns": (
        "Make up a product's record.",
        _object(
            sku={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            version={"type": "string", "pattern": r"^[0-9]{1,2}\.[0-9]{1,2}$"},
        ),
    ),
    "formats": (
        "When does the meeting begin?",
        _object(
            day={"type": "string", "format": "date"},
            id={"type": "string", "format": "uuid"},
            host={"type": "string", "format": "ipv4"},
        ),
    ),
    "optional": (
        "Describe a pet.",
        {
            "type": "object",
            "properties": {
                "name": _NAME,
                "kind": _NAME,
                "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 40},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    ),
    "map": (
        "Count fruit.",
        {
            "type": "object",
            "patternProperties": {"^[a-z]{1,10}$": {"type": "integer", "minimum": 0, "maximum": 9}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 3,
        },
    ),
    "numbers": (
        "Measure something.",
        _object(
            share={"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
            even={"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 1000},
            below={"type": "integer", "exclusiveMaximum": 0, "minimum": -50},
        ),
    ),
    "recursive-list": (
        "Write the number 7 as the only node of a list: its next is null.",
        {
            "$defs": {
                "node": _object(
                    value={"type": "integer", "minimum": 0, "maximum": 9},
                    next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                )
            },
            "$ref": "#/$defs/node",
        },
    ),
    "recursive-tree": (
        "Name one department. It has no units.",
        {
            "$defs": {
                "unit": _object(name=_NAME, units=_list({"$ref": "#/$defs/unit"}, most=2)),
            },
            **_object(head=_LINE, units=_list({"$ref": "#/$defs/unit"}, most=2)),
        },
    ),
}
