"""Run a command as the terminal's foreground job: `foreground.py COMMAND [ARGUMENT]...`.

Under make, Ctrl-C reaches make as well as the command. The command stops in order and with
success, but make dies of the signal and reports a failure. Here the command gets a process
group of its own, as an interactive shell would give it, and make sees only how it ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def main(command: list[str]) -> int:
    terminal = _controlling_terminal()
    if terminal is None or os.tcgetpgrp(terminal) != os.getpgrp():
        os.execvp(command[0], command)  # nobody presses keys here: stay out of the way
    # A background process that hands the terminal over would be stopped otherwise.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = subprocess.Popen(command, process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not child.send_signal: that would reap it before the waitpid below does.
        signal.signal(number, lambda number, _: os.kill(child.pid, number))
    while True:
        os.tcsetpgrp(terminal, child.pid)
        # It may have been stopped meanwhile, or not have had the terminal when it asked.
        os.killpg(child.pid, signal.SIGCONT)
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        os.tcsetpgrp(terminal, os.getpgrp())
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        os.killpg(0, signal.SIGTSTP)  # Ctrl-Z: make stops too; `fg` continues all


def _controlling_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR)
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
