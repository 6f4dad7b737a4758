"""Schemas whose values never end are told from those that only could go on for ever."""

from typing import Any

import pytest

from api.finite import has_finite_value, is_deeper


def node(following: Any, **more: Any) -> dict[str, Any]:
    return {
        "$defs": {"n": {"type": "object", "properties": {"next": following}, **more}},
        "$ref": "#/$defs/n",
    }


HERE = {"$ref": "#/$defs/n"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "required": ["a"]},
        node(HERE),
        node({"anyOf": [HERE, {"type": "null"}]}, required=["next"]),
        node({"type": "array", "items": HERE}, required=["next"]),
        node({"type": ["object", "null"], "required": ["x"]}, required=["next"]),
        node({"enum": [1]}, required=["next"]),
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "prefixItems": [{"type": "null"}], "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "string"}}},
        {"$ref": "elsewhere.json"},
        {"$ref": "#/anyOf/1", "anyOf": [{}, {}]},
        {"required": 5, "type": 7, "anyOf": 3, "allOf": {}, "properties": [], "minItems": "x"},
    ],
)
def test_this_ends(schema: dict[str, Any]) -> None:
    assert has_finite_value(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        node(HERE, required=["next"]),
        node({"anyOf": [HERE, {"allOf": [HERE]}]}, required=["next"]),
        node({"type": "array", "items": HERE, "minItems": 1}, required=["next"]),
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"oneOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}, {"type": "string"}]}]},
    ],
)
def test_this_does_not(schema: dict[str, Any]) -> None:
    assert not has_finite_value(schema)


def test_long_chains_of_references_take_no_time() -> None:
    for order in (range(3000), reversed(range(3000))):
        chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in order}
        chain["d3000"] = {"type": "integer"}
        assert has_finite_value({"$defs": chain, "$ref": "#/$defs/d0"})


def test_levels_are_counted_in_braces_and_brackets() -> None:
    assert not is_deeper(5, 0)
    assert not is_deeper([[{}]], 3)
    assert is_deeper([[{}]], 2)
