"""A program on a terminal, with someone at the keys."""

import os
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from tests.support.poll import until

# A process of its own owns the terminal: forking one from the test's threads is not safe.
_SPAWN: Final = (
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])) & 255)"
)


class Terminal:
    """Type into it, wait for what it shows."""

    def __init__(self, *command: str, cwd: object = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SPAWN, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=str(cwd) if cwd else None,
            env={**os.environ, "TERM": "xterm", "PS1": "$ "},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._keys = self._process.stdin
        self._screen = self._process.stdout
        os.set_blocking(self._screen.fileno(), False)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._keys.close()
        self._screen.close()

    def type(self, keys: str) -> None:
        os.write(self._keys.fileno(), keys.encode())

    def wait_for(self, text: str, seconds: float = 10) -> None:
        """Until `text` is shown; forgets what came before, so that it can be waited for again."""

        def probe() -> bool:
            self.shown += (self._screen.read() or b"").decode(errors="replace")
            return text in self.shown

        until(probe, seconds=seconds, what=f"{text!r} on the terminal\n{self.shown}")
        self.shown = self.shown.partition(text)[2]

    def wait_for_end(self) -> int:
        """The exit code."""
        return self._process.wait(timeout=10)
