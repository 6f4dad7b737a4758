"""When to ask the service again, and when to give up. Knows the time, and does not wait."""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

from cli.transport import ServiceUnavailableError

SECONDS: Final = 120.0
"""How long a silent service is sought."""
ENDLESS: Final = math.inf
"""It is sought for ever, also one that has not given a sign of life yet."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


class Pause(NamedTuple):
    """The service is away and will be asked again."""

    seconds: float
    reason: str


class Patience:
    """Counts from the last sign of life. With a service that never gave one there is none."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._last_sign: float | None = None
        self._pause = _FIRST_PAUSE

    def sign_of_life(self) -> None:
        self._last_sign = time.monotonic()

    def progress(self) -> None:
        """What was lost before is made up for."""
        self._pause = _FIRST_PAUSE

    def bear(self, error: ServiceUnavailableError) -> Pause:
        """What to wait for before asking again.

        Raises:
            ServiceUnavailableError: `error` itself; it is not worth it.
        """
        now = time.monotonic()
        if error.lost and self._last_sign is None:
            self._last_sign = now
        pause = max(self._pause, error.retry_after or 0)
        if self._seconds != ENDLESS and (
            self._last_sign is None or now + pause > self._last_sign + self._seconds
        ):
            raise error
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return Pause(pause, str(error))
