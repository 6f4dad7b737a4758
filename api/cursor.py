"""Where a page of usage ended, as text that clients hand back."""

from __future__ import annotations

from typing import Final

from shared.usage import Usage, UsageKey

PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.([0-9a-f]{2})*){2}$"
"""Every text like this names a place, whether or not there is a row."""


def encode_cursor(last: Usage) -> str:
    return ".".join((last.day, last.key.encode().hex(), last.model.encode().hex()))


def decode_cursor(cursor: str | None) -> UsageKey | None:
    """What the page follows."""
    if cursor is None:
        return None
    day, key, model = cursor.split(".")
    return UsageKey(day, *(bytes.fromhex(part).decode(errors="replace") for part in (key, model)))
