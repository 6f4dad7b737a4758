"""When to ask the service again, and when to give up."""

from __future__ import annotations

import time
from typing import Final

from cli.transport import ServiceUnavailableError

SECONDS: Final = 120.0
"""How long a silent service is sought."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


class Patience:
    """Counts from the last sign of life. With a service that never gave one there is none."""

    def __init__(self) -> None:
        self._last_sign: float | None = None
        self._pause = _FIRST_PAUSE

    def sign_of_life(self) -> None:
        self._last_sign = time.monotonic()

    def progress(self) -> None:
        """What was lost before is made up for."""
        self._pause = _FIRST_PAUSE

    def bear(self, error: ServiceUnavailableError) -> None:
        """Wait until it is time to ask again.

        Raises:
            ServiceUnavailableError: `error` itself; it is not.
        """
        now = time.monotonic()
        if error.lost and self._last_sign is None:
            self._last_sign = now
        pause = max(self._pause, error.retry_after or 0)
        if self._last_sign is None or now + pause > self._last_sign + SECONDS:
            raise error
        time.sleep(pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
