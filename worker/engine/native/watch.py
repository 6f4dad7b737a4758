"""Runs a command that must outlive neither its caller nor its deadline.

    python -I watch.py SECONDS COMMAND [ARGUMENT]...

The caller holds the other end of standard input, and never writes to it: it ends when the caller
does. A script on its own, which starts in hundredths of a second: it imports nothing of ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Final

TOO_LATE: Final = 124
"""Exit code; otherwise the command's own, or 128 and its signal."""
_NICE: Final = 10
"""A tenth of a core where the engine wants all of them; the lowest would leave next to nothing."""


def main(seconds: float, command: list[str]) -> int:
    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller to answer
    # A group of its own: compilers do their work in children.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def end_with_caller() -> None:
        os.read(0, 1)
        end()
        os._exit(1)

    threading.Thread(target=end_with_caller, daemon=True).start()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        end()
        return TOO_LATE
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
