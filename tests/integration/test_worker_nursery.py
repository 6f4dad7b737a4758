"""The process that forks the serving one, with a toy in place of a worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.poll import until
from tests.support.stack import is_alive

# Writes down who serves and who was killed; serves until a signal says otherwise.
TOY = """
import os, signal, sys, time
from pathlib import Path
from worker import nursery

nursery._HEALTHY_SECONDS = float(sys.argv[2])
folder = Path(sys.argv[1])

def serve(name):
    def stop(number, frame):
        (folder / "stopped").write_text(name)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    (folder / f"{name}.new").write_text(str(os.getpid()))
    (folder / f"{name}.new").rename(folder / f"{name}.pid")
    while not (folder / "code").exists():
        time.sleep(0.01)
    return int((folder / "code").read_text())

def killed(name):
    (folder / f"{name}.killed").touch()

sys.exit(nursery.Nursery(serve, killed).run())
"""


class Toy:
    def __init__(self, folder: Path, healthy_seconds: float) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", TOY, str(folder), str(healthy_seconds)],
            cwd=Path(__file__).parents[2],
        )

    def serving(self, number: int = 1) -> psutil.Process:
        """The fork of this number, counted from 1."""
        until(lambda: len(self._pids()) == number, what=f"fork {number}")
        return psutil.Process(int(self._pids()[-1].read_text()))

    def _pids(self) -> list[Path]:
        return sorted(self.folder.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Callable[..., Toy]]:
    toys: list[Toy] = []

    def start(healthy_seconds: float = 0) -> Toy:
        toys.append(Toy(tmp_path, healthy_seconds))
        return toys[-1]

    yield start
    for made in toys:
        for process in psutil.Process(made.process.pid).children() if is_running(made) else []:
            process.kill()
        made.process.kill()
        made.process.wait(timeout=10)


def is_running(toy: Toy) -> bool:
    return toy.process.poll() is None


def test_a_killed_fork_is_reported_and_followed_by_another(
    toy: Callable[..., Toy], tmp_path: Path
) -> None:
    made = toy()
    first = made.serving()
    first.kill()
    second = made.serving(2)
    assert second.pid != first.pid
    assert len(list(tmp_path.glob("*.killed"))) == 1
    (tmp_path / "code").write_text("0")
    assert made.process.wait(timeout=10) == 0


def test_a_fork_that_is_killed_at_once_is_the_supervisors_business(
    toy: Callable[..., Toy], tmp_path: Path
) -> None:
    made = toy(healthy_seconds=60)
    made.serving().kill()
    assert made.process.wait(timeout=10) == 128 + signal.SIGKILL
    assert len(list(tmp_path.glob("*.killed"))) == 1


def test_its_exit_code_is_passed_on(toy: Callable[..., Toy], tmp_path: Path) -> None:
    made = toy()
    made.serving()
    (tmp_path / "code").write_text("78")
    assert made.process.wait(timeout=10) == 78


def test_sigterm_reaches_the_fork(toy: Callable[..., Toy], tmp_path: Path) -> None:
    made = toy()
    made.serving()
    made.process.terminate()
    assert made.process.wait(timeout=10) == 0
    assert (tmp_path / "stopped").exists()
    assert not list(tmp_path.glob("*.killed"))


def test_the_fork_does_not_outlive_it(toy: Callable[..., Toy], tmp_path: Path) -> None:
    made = toy()
    serving = made.serving()
    os.kill(made.process.pid, signal.SIGKILL)
    until(lambda: not is_alive(serving), what="the fork's end")
    assert (tmp_path / "stopped").exists()
