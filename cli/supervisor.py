"""Keeps children running, and stops them in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from cli.child import Child
from shared.errors import StackError

FATAL: Final = 78
"""A child's exit code for what no restart mends: its last line says what."""

_POLL: Final = 0.05


class Supervisor:
    """Restarts what dies. Single-threaded: call `check` often."""

    def __init__(self, report: Callable[[str], None], changed: Callable[[], None]) -> None:
        """`report` gets a line for people, `changed` is called when any child's state is new."""
        self._report = report
        self._changed = changed
        self.children: list[Child] = []

    def start(self, child: Child) -> None:
        """Start a child and look after it from now on."""
        self.children.append(child)
        child.start()
        self._changed()

    def check(self) -> None:
        """Notice deaths and start what is due again.

        Raises:
            StackError: a child can't be kept running; the message ends in its last words.
        """
        for child in self.children:
            if child.due is None:
                if not child.running:
                    self._bury(child)
            elif time.monotonic() >= child.due:
                child.restarts += 1
                child.start()
                self._changed()

    def _bury(self, child: Child) -> None:
        if child.exit_code == FATAL:
            raise StackError(f"{child.name} stopped: {child.last_words()}")
        pause = child.backoff.died(child.lived)
        how = _describe_exit(child.exit_code)
        if pause is None:
            raise StackError(
                f"{child.name} keeps dying as it starts ({how}). Its last words: "
                f"{child.last_words()} (all: {child.log})"
            )
        child.due = time.monotonic() + pause
        self._report(f"{child.name} died ({how}); starting it again in {pause:g} s ({child.log})")
        self._changed()


def wait(children: Iterable[Child], *, seconds: float, hurry: Callable[[], bool]) -> None:
    """Until all have ended, the time is over, or `hurry` says not to wait any more."""
    waiting = list(children)
    deadline = time.monotonic() + seconds
    while any(child.running for child in waiting) and time.monotonic() < deadline and not hurry():
        time.sleep(_POLL)


def _describe_exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
