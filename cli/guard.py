"""Starts a server that must not outlive its supervisor by much, and that knows nothing of it.

    python -m cli.guard SECONDS COMMAND [ARGUMENT]...

This process becomes the server, so that the supervisor has it as its own child. A fork of it
stays beside the server and watches standard input: `SECONDS` after that has ended (`cli.leash`
says why it does) it asks the server to stop. That is time for the server's clients to end first.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from cli.leash import STDIN


def main(seconds: float, command: list[str]) -> None:
    server_lives, held_by_server = os.pipe()
    server = os.getpid()
    if os.fork() == 0:
        os.close(held_by_server)
        _watch(server, server_lives, seconds)
        os._exit(0)
    os.set_inheritable(held_by_server, True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and a new program would too
    os.execv(command[0], command)  # noqa: S606 - our own command line


def _watch(server: int, server_lives: int, seconds: float) -> None:
    ended, _, _ = select.select([server_lives, STDIN], [], [])
    if server_lives not in ended:
        ended, _, _ = select.select([server_lives], [], [], seconds)
    if server_lives not in ended and os.getppid() == server:
        os.kill(server, signal.SIGTERM)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
