"""When a dead child is started again, and when it is given up. Pure."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.5
LONGEST: Final = 30.0
HEALTHY: Final = 20.0
"""A child that lived this long works: it is started again at once, and never given up."""
EARLY: Final = 5.0
"""A child that lived shorter has probably not started at all."""
EARLY_DEATHS: Final = 5
"""So many in a row before it ever worked, and starting it once more won't help."""


class Backoff:
    """Seconds throughout."""

    def __init__(self) -> None:
        self._deaths = 0
        self._early = 0
        self._has_worked = False

    def died(self, lived: float) -> float | None:
        """How long to wait before the next start, or None to give up."""
        if lived >= HEALTHY:
            self._has_worked = True
            self._deaths = 0
            return 0.0
        self._early = self._early + 1 if lived < EARLY else 0
        if self._early >= EARLY_DEATHS and not self._has_worked:
            return None
        self._deaths += 1
        return float(min(FIRST * 2 ** (self._deaths - 1), LONGEST))
