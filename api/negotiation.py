"""Which media type an `Accept` header asks for (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from typing import Final

from api.errors import NotAcceptableError
from api.streams import EVENT_STREAM, PLAIN_TEXT

_RANGE: Final = re.compile(r"\s*([\w.+*-]+)/([\w.+*-]+)\s*((?:;[^,]*)?)")
_QUALITY: Final = re.compile(r";\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?=;|$)", re.IGNORECASE)


def stream_type(accept: str | None) -> str:
    """`text/event-stream` unless `text/plain` is liked better.

    Raises:
        NotAcceptableError: the header allows neither.
    """
    if accept is None or not accept.strip():
        return EVENT_STREAM
    best = max((EVENT_STREAM, PLAIN_TEXT), key=lambda offer: _quality(accept, offer))
    if _quality(accept, best) == 0:
        raise NotAcceptableError
    return best


def insists_on_events(accept: str | None) -> bool:
    """Whether it names the type, as EventSource does; what takes anything does not."""
    return EVENT_STREAM in (accept or "").lower()


def _quality(accept: str, offer: str) -> float:
    """The quality of the most specific range that covers the offer; 0 if none does."""
    kind, subkind = offer.split("/")
    found: tuple[int, float] = (-1, 0.0)
    for part in accept.lower().split(","):
        match = _RANGE.fullmatch(part)
        if match is None or match[1] not in {kind, "*"} or match[2] not in {subkind, "*"}:
            continue
        precision = (match[1] != "*") + (match[2] != "*")
        quality = _QUALITY.search(match[3])
        found = max(found, (precision, float(quality[1]) if quality else 1.0))
    return found[1]
