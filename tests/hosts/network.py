"""Hosts of their own on one machine: each has its network, its name and its process numbers.

The test process moves into a network of its own too, in the middle of which there is a bridge.
Nothing of it outlives the processes.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support.poll import until

HERE: Final = "10.77.0.1"
_CLONE_NEWNET: Final = 0x40000000


def require() -> None:
    """Say what this needs before anything fails for want of it."""
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    assert not missing, f"This test needs iproute2 and util-linux: there is no {missing[0]}."
    assert os.geteuid() == 0, "This test makes network namespaces, and so needs root on Linux."


def move_into_own_network() -> None:
    """This thread and all that it starts from now on."""
    require()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    _ip("link set lo up")
    _ip("link add bridge type bridge")
    _ip(f"addr add {HERE}/24 dev bridge")
    _ip("link set bridge up")


class Host:
    """One machine. Its processes see neither those of others nor their numbers."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        command = ["unshare", "--net", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
        script = f"hostname {name}; ip link set lo up; exec sleep infinity"
        self._holder = subprocess.Popen([*command, "sh", "-c", script])
        self._init = until(self._find_init, what="the host's first process")
        _ip(f"link add to-{name} type veth peer name eth0 netns {self._init}")
        _ip(f"link set to-{name} master bridge")
        self.join()
        for command_line in (f"addr add 10.77.0.{number}/24 dev eth0", "link set eth0 up"):
            self.run(["ip", *command_line.split()]).wait()

    def run(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process there; what is returned stands outside and waits for it."""
        entry = ["nsenter", "--target", str(self._init), "--net", "--uts", "--pid", "--mount"]
        return subprocess.Popen([*entry, f"--wd={Path.cwd()}", *command], **options)

    def cut(self) -> None:
        """As if somebody pulled the cable."""
        _ip(f"link set to-{self.name} down")

    def join(self) -> None:
        _ip(f"link set to-{self.name} up")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait(timeout=10)

    def _find_init(self) -> int:
        """The script, once it has given the host its name and become `sleep`."""
        children = psutil.Process(self._holder.pid).children()
        ready = [child.pid for child in children if child.name() == "sleep"]
        return ready[0] if ready else 0


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)
