"""`minivault up` as its users run it: real processes in a data folder of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from cli import state
from shared.configuration import load_settings
from shared.settings import PREFIX
from tests.support.api import free_port
from tests.support.models import seed_real_model
from tests.support.poll import until

MINIVAULT: Final = str(Path(sys.executable).with_name("minivault"))


class Stack:
    """One stack. Its folder is the current one of its processes: no `.env` reaches them."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # One thread: other tests run beside, and OpenMP's would wait for each other's cores.
        usual = {"DATA_DIR": self.data, "PORT": self.port, "RATE_LIMIT": "off", "THREADS": 1}
        given = {**usual, **variables}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            **{PREFIX + name: str(value) for name, value in given.items() if value is not None},
        }
        self._output = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, also again; what an earlier run said is gone."""
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [MINIVAULT, "up"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = 60) -> float:
        """Seconds until the banner."""
        began = time.monotonic()
        until(self._is_ready_or_ended, seconds=seconds, what=f"readiness\n{self.logs()}")
        assert self.supervisor.poll() is None, f"the stack ended\n{self.logs()}"
        return time.monotonic() - began

    @property
    def supervisor(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, "start() first"
        return self.process

    @property
    def output(self) -> str:
        return self._output.read_text()

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A `minivault` command under the stack's settings."""
        return subprocess.run(
            [MINIVAULT, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return found

    def pid(self, role: str) -> int:
        """Of a role's first running process; 0 if there is none."""
        noted = state.read(load_settings(data_dir=self.data))
        for process in noted.processes if noted else ():
            if process.role == role and process.checked().state == "running":
                return process.pid or 0
        return 0

    def strike(self, role: str) -> None:
        """Kill a role's process and what it has forked, if it runs.

        A worker's fork would go on for a while when only its parent is killed, and end a short
        job in that time.
        """
        with suppress(psutil.NoSuchProcess):
            if not (pid := self.pid(role)):
                return
            process = psutil.Process(pid)
            for each in [process, *process.children()]:
                each.kill()

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything it has started."""
        supervisor = psutil.Process(self.supervisor.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGINT, seconds: float = 20) -> int:
        """The exit code of a stop as asked."""
        self.supervisor.send_signal(number)
        return self.supervisor.wait(timeout=seconds)

    def all_processes(self) -> list[psutil.Process]:
        """As `processes`, also without a supervisor."""
        return processes_in(self.folder)

    def kill(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
        for process in self.all_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def logs(self) -> str:
        """Everything that any of the processes said, for a failing test."""
        files = [self._output, *sorted(self.data.glob("logs/*.log"))]
        return "\n".join(
            f"--- {path}\n{path.read_text(errors='replace')}" for path in files if path.exists()
        )

    def _is_ready_or_ended(self) -> bool:
        return "MiniVault is ready" in self.output or self.supervisor.poll() is not None


@contextmanager
def running_stack(folder: Path, **variables: Any) -> Iterator[Stack]:
    """A stack with the real model, ready to answer; stopped hard if the test has not."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(folder, **variables)
    seed_real_model(load_settings(data_dir=stack.data))
    stack.start()
    try:
        stack.wait_ready()
        yield stack
    finally:
        stack.kill()


def processes_in(folder: Path) -> list[psutil.Process]:
    """Those whose current folder lies there, as that of all processes of a stack does.

    Valkey has written its title over its environment, so that does not tell.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, or not to be looked into
            if Path(process.cwd()).is_relative_to(folder.resolve()):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Zombies do not count: in a container there may be no init that reaps them."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
