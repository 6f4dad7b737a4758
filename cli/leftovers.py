"""What a supervisor leaves behind that was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psutil

from cli import state
from cli.lock import ChildrenLock
from cli.state import ProcessState
from cli.stopping import KILL_MARGIN_SECONDS, stop_in_order
from shared.errors import StackError
from shared.settings import Settings

_POLL: Final = 0.05


class Leftover:
    """A process that was another supervisor's child, as `cli.stopping` wants it."""

    def __init__(self, noted: ProcessState) -> None:
        self.role = noted.role
        self.name = noted.name
        self._noted = noted

    @property
    def running(self) -> bool:
        return self._noted.checked().state == "running"

    def terminate(self) -> None:
        self._send(os.kill, signal.SIGTERM)

    def kill(self) -> None:
        self._send(os.killpg, signal.SIGKILL)

    def _send(self, send: Callable[[int, int], None], number: int) -> None:
        if self.running and self._noted.pid is not None:
            with suppress(ProcessLookupError):
                send(self._noted.pid, number)


def worker_pids(settings: Settings) -> list[int]:
    """Of the workers that were noted as running when their supervisor died."""
    noted = state.read(settings)
    processes = noted.processes if noted else ()
    return [each.pid for each in processes if each.role == "worker" and each.pid is not None]


def clear(settings: Settings, lock: ChildrenLock, report: Callable[[str], None]) -> None:
    """Take `lock`, having stopped whoever holds it.

    Raises:
        StackError: somebody does not let go of it.
    """
    if lock.acquire():
        return
    report("An earlier stack lost its supervisor; stopping what is left of it")
    noted = state.read(settings)
    stop_in_order(
        [Leftover(process) for process in noted.processes] if noted else [],
        grace=settings.shutdown_grace,
        report=report,
        hurry=lambda: False,
    )
    # One that was started, or forked, but not noted ends by itself, unless it is frozen.
    if not _acquired(lock, settings.shutdown_grace + KILL_MARGIN_SECONDS):
        for process in _holders(lock):
            report(f"Process {process.pid} did not stop in time and is killed")
            process.kill()
        if not _acquired(lock, KILL_MARGIN_SECONDS):
            raise StackError(
                f"A process of an earlier stack still uses {settings.data_dir}: whichever has "
                f"{lock.path} open. End it."
            )


def _acquired(lock: ChildrenLock, seconds: float) -> bool:
    """Whether the lock could be had within a time."""
    deadline = time.monotonic() + seconds
    while not lock.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _holders(lock: ChildrenLock) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, or somebody else's
            if any(file.path == str(lock.path) for file in process.open_files()):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]
