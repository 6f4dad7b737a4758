"""Starts the process that serves, and starts it again at once when something kills it.

Loading torch and transformers takes seconds. This process does it once and then only forks: the
process that serves shares that memory with it, and its successor is there in milliseconds. Here
no thread runs, no connection is open and no model is loaded, so there is nothing that a fork
could break or that could break this process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Final

from shared.logging import get_logger

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_HEALTHY_SECONDS: Final = 5.0
"""A process that was killed sooner than this is left to whoever supervises this one."""
_KILLED: Final = 128
"""Added to a signal's number, as shells do, where the exit code has to tell it."""


class Nursery:
    """What `serve` returns or raises in a fork leaves `run` there; here `run` returns its code."""

    def __init__(self, serve: Callable[[str], int], on_killed: Callable[[str], None]) -> None:
        """Both are given the worker's name, a new one for each fork.

        `on_killed` is called here, after a fork was killed by a signal.
        """
        self._serve = serve
        self._on_killed = on_killed
        self._child = 0
        self._stopping = False

    def run(self) -> int:
        """Until a fork ends by itself; returns its exit code. Needs the main thread."""
        for number in _STOPPING:
            signal.signal(number, self._pass_on)
        while True:
            name, started = new_worker_name(), time.monotonic()
            lives, held_here = os.pipe()
            if not self._fork():
                os.close(held_here)
                threading.Thread(target=_stop_when_it_ends, args=(lives,), daemon=True).start()
                return self._serve(name)
            os.close(lives)
            _, status = os.waitpid(self._child, 0)
            os.close(held_here)
            code = os.waitstatus_to_exitcode(status)
            if code >= 0:
                return code
            if self._stopping:
                return 0
            get_logger().error("worker was killed", worker=name, signal=-code)
            self._on_killed(name)
            if time.monotonic() - started < _HEALTHY_SECONDS:
                return _KILLED - code

    def _fork(self) -> bool:
        """True here, False in the fork."""
        # None may come between the fork and knowing whom to pass it on to.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            self._child = os.fork()
            if not self._child:
                for number in _STOPPING:
                    signal.signal(number, signal.SIG_DFL)
            return bool(self._child)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._stopping = True
        if self._child:
            os.kill(self._child, number)


def new_worker_name() -> str:
    return f"minivault-{uuid.uuid4().hex[:12]}"


def _stop_when_it_ends(descriptor: int) -> None:
    """A worker must not outlive the process that would start it again."""
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
