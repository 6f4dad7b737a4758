"""Keeps children running, and stops them in order."""

from __future__ import annotations

import time
from collections.abc import Callable

from cli.child import Child
from cli.exit_codes import BAD_CONFIGURATION
from shared.errors import StackError


class Supervisor:
    """Restarts what dies. Single-threaded: call `check` often."""

    def __init__(
        self,
        report: Callable[[str], None],
        changed: Callable[[], None],
        died: Callable[[Child], None],
    ) -> None:
        """`report` gets a line for people, `changed` is called when any child's state is new.

        `died` gets a child that has died, before anything else is done about it.
        """
        self._report = report
        self._changed = changed
        self._died = died
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
            child.trim_log()
            if child.due is None and not child.running:
                self._bury(child)
            if child.due is not None and time.monotonic() >= child.due:
                child.restarts += 1
                child.start()
                self._changed()

    def _bury(self, child: Child) -> None:
        self._died(child)
        if child.exit_code == BAD_CONFIGURATION:
            raise StackError(f"{child.name} stopped: {child.last_words()}")
        pause = child.backoff.died(child.lived)
        how = _describe_exit(child.exit_code)
        if pause is None:
            raise StackError(
                f"{child.name} keeps dying as it starts ({how}). Its last words: "
                f"{child.last_words()} (all: {child.log})"
            )
        child.due = time.monotonic() + pause
        when = f"in {pause:g} s" if pause else "at once"
        self._report(f"{child.name} died ({how}); starting it again {when} ({child.log})")
        self._changed()


def _describe_exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
