"""Ctrl-C, SIGTERM and a closed terminal, as something the supervisor can ask for."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Final, Self

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Counts the wishes to stop. Until `defer` is called each also raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self._deferred = False
        self._before = {number: signal.getsignal(number) for number in _STOPPING}

    def __enter__(self) -> Self:
        for number in _STOPPING:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on only count: there are children to be stopped in order."""
        self._deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.count += 1
        if not self._deferred:
            raise KeyboardInterrupt
