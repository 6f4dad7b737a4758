"""One supervised process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cli import state
from cli.backoff import Backoff
from cli.state import ProcessState
from shared.errors import StackError

LOG_BYTES: Final = 10_000_000
"""At which a log is moved aside; the one before goes."""


class Child:
    """A process in a group of its own: a Ctrl-C in the terminal reaches only the supervisor.

    Not in a session of its own: Linux would share the cores out among sessions first, and a
    thread's priority would count for nothing beside another process (`worker.priority`).

    Its output goes to a file; what was before is kept beside it, up to a size. Its input is a
    pipe that ends with the supervisor (`cli.leash`).
    """

    def __init__(
        self, role: str, name: str, command: Sequence[str], log: Path, *, inherited: int
    ) -> None:
        """`inherited` is a descriptor that the process gets beside its standard ones."""
        self.role = role
        self.name = name
        self.log = log
        self.restarts = 0
        self.backoff = Backoff()
        self.due: float | None = None
        """When to start it again, in monotonic seconds; None while it runs."""
        self._command = list(command)
        self._inherited = inherited
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_time: float | None = None
        if log.exists():
            log.replace(log.with_suffix(".log.1"))

    def start(self) -> None:
        """Start, or start again.

        Raises:
            StackError: there is no such program.
        """
        self._close_input()
        try:
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - our own command lines
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(self._inherited,),
                    process_group=0,
                )
        except OSError as error:
            raise StackError(f"{self.name} can't be started: {error}") from error
        self._started = time.monotonic()
        self._start_time = state.start_time(self._process.pid)
        self.due = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int:
        """Of a process that has ended; negative: the signal that killed it."""
        assert self._process is not None
        assert self._process.returncode is not None
        return self._process.returncode

    @property
    def lived(self) -> float:
        """Seconds since the last start."""
        return time.monotonic() - self._started

    def trim_log(self) -> None:
        """Keep the log from filling the disk.

        The process goes on writing to the same file, at its new end. A line that it writes
        between the two steps is lost.
        """
        with contextlib.suppress(OSError):  # the disk is full already, or the folder is gone
            if self.log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Stop it, and whatever it has started, at once."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close_input()

    def last_words(self) -> str:
        """The last line of its log: what it said before it died."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        said = [line for line in text.splitlines() if line.strip()]
        return said[-1] if said else "(it said nothing)"

    def describe(self) -> ProcessState:
        process = self._process
        if process is not None and process.poll() is None:
            now = "running"
        else:
            now = "stopped" if self.due is None else "restarting"
        return ProcessState(
            role=self.role,
            name=self.name,
            pid=process.pid if process is not None and now == "running" else None,
            state=now,
            restarts=self.restarts,
            started_at=self._start_time,
        )

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
