"""A thread whose death is noticed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from shared.logging import get_logger


class SideThread(ABC):
    """A named daemon thread. If its `run` raises, the worker is told to stop."""

    def __init__(self, name: str, on_crash: Callable[[], None]) -> None:
        """`on_crash` is called on the dying thread; a worker without it is no worker."""
        self._on_crash = on_crash
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, or for so many seconds."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    @abstractmethod
    def run(self) -> None: ...

    def _guarded(self) -> None:
        try:
            self.run()
        except Exception:  # noqa: BLE001  (the thread's last line: log it, stop the worker)
            get_logger().exception("thread died", thread=self._thread.name)
            self._on_crash()
