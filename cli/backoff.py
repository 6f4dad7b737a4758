"""When a dead child is started again, and when it is given up. Pure."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.5
LONGEST: Final = 30.0
HEALTHY: Final = 60.0
"""A child that lived this long had recovered: its next death is a first one."""
EARLY: Final = 5.0
"""A child that lived shorter has probably not started at all."""
EARLY_DEATHS: Final = 5
"""So many in a row, and starting it once more won't help."""


class Backoff:
    """Seconds throughout."""

    def __init__(self) -> None:
        self._deaths = 0
        self._early = 0

    def died(self, lived: float) -> float | None:
        """How long to wait before the next start, or None to give up."""
        if lived >= HEALTHY:
            self._deaths = 0
        self._early = self._early + 1 if lived < EARLY else 0
        if self._early >= EARLY_DEATHS:
            return None
        self._deaths += 1
        return float(min(FIRST * 2 ** (self._deaths - 1), LONGEST))
