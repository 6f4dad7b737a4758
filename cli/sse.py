"""Server-sent events from bytes. Pure; follows the WHATWG's parsing rules.

Only the id is kept apart: to a browser an event without one has the last one's, but here the
difference counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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


def parse(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Events in order. One that the stream's end cuts off is dropped."""
    name, own_id = "", None
    data: list[str] = []
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(name or "message", "\n".join(data), own_id)
            name, own_id, data = "", None, []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            own_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = _LINE_END.split(rest + chunk)
        for line in lines:
            yield line.decode("utf-8", errors="replace")
