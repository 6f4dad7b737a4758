"""Tokens that a key may use in a day of UTC, set aside for jobs before they run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

TTL: Final = 2 * 24 * 3600
"""Seconds that a day's account is kept: longer than any of its jobs lives."""


class Allotment(NamedTuple):
    """What a job needs of its key's day."""

    daily: int
    """All that the key may use in a day."""
    reserved: int
    """As many tokens as the job can possibly use."""


def day_of(time: float) -> str:
    """`time` in seconds since the epoch."""
    return datetime.fromtimestamp(time, UTC).date().isoformat()


def seconds_to_next_day(time: float) -> int:
    """At least 1."""
    begins = datetime.fromtimestamp(time, UTC)
    midnight = datetime.combine(begins.date() + timedelta(days=1), datetime.min.time(), UTC)
    return max(1, round((midnight - begins).total_seconds()))
