"""How a child of the supervisor notices that the supervisor is no more.

A child's standard input is a pipe that nobody ever writes to. Its other end is held by the
supervisor alone, so the pipe ends when the supervisor does, however that comes about.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Final

STDIN: Final = 0


def stop_with_supervisor() -> None:
    """From now on, stop as on SIGTERM when standard input ends."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - descriptors, not files
        descriptor = int(name)
        if descriptor > 2:
            # The lock that was inherited is for this process, not for what it starts.
            with suppress(OSError):
                os.set_inheritable(descriptor, False)
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    while os.read(STDIN, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
