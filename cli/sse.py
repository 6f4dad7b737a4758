"""Server-sent events from bytes. Pure; follows the WHATWG's parsing rules.

Only the id is kept apart: to a browser an event without one has the last one's, but here the
difference counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# A carriage return at the end of what has come may be half of a pair. Unlike str.splitlines,
# this leaves the Unicode line ends alone that JSON text may hold.
_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?=[\s\S])")


@dataclass(frozen=True)
class ServerEvent:
    name: str
    data: str
    id: str | None


class Parser:
    """Of one connection. An event that its end cuts off is never told."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that are complete with this chunk, in order."""
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        for line in lines:
            yield from self._line(line.decode("utf-8", errors="replace"))

    def _line(self, line: str) -> Iterator[ServerEvent]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if self._data:
                yield ServerEvent(self._name or "message", "\n".join(self._data), self._id)
            self._name, self._id, self._data = "", None, []
        elif field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self._id = value
