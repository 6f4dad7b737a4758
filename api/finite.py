"""Whether a JSON Schema has a value that ends: references may require themselves without end.

A list's node whose `next` is required, and a node again, is in no list that ends: a model held to
it would write until it is cut off. The library does not notice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

_CONTAINERS: Final = {"object", "array"}


def has_finite_value(schema: dict[str, Any]) -> bool:
    """Looks at references and at what is required, and at nothing else that may be impossible.

    A least fixed point: a schema ends where what it requires ends.
    """
    return _Schemas(schema).ends(schema)


class _Schemas:
    """The schemas inside a document, by identity: a document is a tree."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._ending: set[int] = set()
        self._askers: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        """Who has found a schema without end so far, and would look again."""
        for schema in _inner_first(root):
            self._settle(schema)

    def ends(self, schema: Any) -> bool:
        return not isinstance(schema, dict) or id(schema) in self._ending

    def _settle(self, schema: dict[str, Any]) -> None:
        waiting = [schema]
        while waiting:
            each = waiting.pop()
            if id(each) not in self._ending and self._look(each):
                self._ending.add(id(each))
                waiting += self._askers.pop(id(each), [])

    def _look(self, schema: dict[str, Any]) -> bool:
        if "const" in schema or "enum" in schema:
            return True
        if "$ref" in schema and not self._asks(schema, self._target(schema["$ref"])):
            return False
        if not all(self._asks(schema, each) for each in _listed(schema.get("allOf"))):
            return False
        for choice in ("anyOf", "oneOf"):
            ways = _listed(schema.get(choice))
            if ways and not any(self._asks(schema, way) for way in ways):
                return False
        kinds = schema.get("type")
        kinds = {kinds} if isinstance(kinds, str) else set(filter(_is_text, _listed(kinds)))
        if not kinds or kinds - _CONTAINERS:
            return True
        return any(
            all(self._asks(schema, part) for part in _required(schema, kind)) for kind in kinds
        )

    def _asks(self, asker: dict[str, Any], schema: Any) -> bool:
        if self.ends(schema):
            return True
        self._askers[id(schema)].append(asker)
        return False

    def _target(self, reference: Any) -> Any:
        """What a reference within the document stands for; others are not looked at."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        node: Any = self._root
        for part in unquote(reference[1:]).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = node.get(name)
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node


def _required(schema: dict[str, Any], kind: str) -> Iterator[Any]:
    """The schemas of the parts without which there is no object, or no array."""
    if kind == "object":
        properties = schema.get("properties")
        for name in filter(_is_text, _listed(schema.get("required"))):
            if isinstance(properties, dict):
                yield properties.get(name)
        return
    least = schema.get("minItems", 0)
    first = _listed(schema.get("prefixItems"))
    if isinstance(least, int):
        yield from first[:least]
        if least > len(first):
            yield schema.get("items")


def _inner_first(root: Any) -> list[dict[str, Any]]:
    found, layer = [], [root]
    while layer:
        found += [node for node in layer if isinstance(node, dict)]
        layer = [child for node in layer for child in parts(node)]
    return found[::-1]


def is_deeper(document: Any, levels: int) -> bool:
    """Whether a JSON value has more levels of braces and brackets than these."""
    layer = [document]
    for _ in range(levels):
        layer = [child for node in layer for child in parts(node)]
        if not layer:
            return False
    return any(isinstance(node, dict | list) for node in layer)


def parts(node: Any) -> list[Any]:
    """What a JSON value holds directly."""
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
