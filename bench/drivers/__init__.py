"""How each kind of server, and the engine without one, is asked and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.measure import Stream
from bench.workload import Ask


class Driver(Protocol):
    """Sends requests and reads the streams."""

    def run(
        self, asks: Sequence[Ask], *, concurrency: int | None = None, seconds: float | None = None
    ) -> list[Stream]:
        """Send each request when it is due and there is room for it; read all to their ends.

        Args:
            asks: In the order in which they are sent.
            concurrency: How many run at once at most. None: all that are due.
            seconds: After which none is sent any more.

        Returns:
            A stream for each request that was sent, in the order of `asks`. A request that
            waits for room counts from when it is sent, one that is only due from then on.
        """
        ...
