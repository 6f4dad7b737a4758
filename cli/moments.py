"""Moments as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import typer

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """`2026-11-25`, `2026-11-25T09:30`, or how long ago: `90m`, `12h`, `7d`, `4w`. In UTC.

    Raises:
        typer.BadParameter: it is none of these.
    """
    ago = re.fullmatch(r"([0-9]{1,6})([mhdw])", text, re.ASCII)
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no moment: write 2026-11-25, 2026-11-25T09:30, or 7d for a week ago."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
