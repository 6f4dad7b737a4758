"""The supervisor with stand-in children: real processes that are quick to start."""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cli import stopping
from cli.child import Child
from cli.signals import StopSignals
from cli.supervisor import Supervisor
from shared.errors import StackError
from tests.support.poll import until

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(60)"
)


class Desk:
    """A supervisor, its children, and what it reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[str] = []
        self.changes = 0
        self.dead: list[int] = []
        self.supervisor = Supervisor(
            self.reports.append, self._changed, lambda child: self.dead.append(child.pid)
        )
        self.lock = (folder / "lock").open("w")

    def start(self, code: str, role: str = "worker") -> Child:
        name = f"{role}-{len(self.supervisor.children)}"
        self.supervisor.start(self.child(role, name, [sys.executable, "-c", code]))
        return self.supervisor.children[-1]

    def child(self, role: str, name: str, command: list[str]) -> Child:
        log = self.folder / f"{name}.log"
        return Child(role, name, command, log, inherited=self.lock.fileno())

    def check_until(self, condition) -> None:
        def probe():
            self.supervisor.check()
            return condition()

        until(probe, what="condition under supervision")

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def desk(tmp_path: Path):
    desk = Desk(tmp_path)
    yield desk
    for child in desk.supervisor.children:
        child.kill()
    desk.lock.close()


def pid_of(child: Child) -> int:
    pid = child.describe().pid
    assert pid is not None
    return pid


def says(child: Child, text: str) -> None:
    until(lambda: text in child.log.read_text(), what=f"{child.name} saying {text!r}")


def test_a_killed_child_is_started_again_and_reported(desk: Desk) -> None:
    child = desk.start(SLEEP)
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)
    desk.check_until(lambda: child.due is not None)
    assert child.describe().state == "restarting"
    assert child.describe().pid is None
    desk.check_until(lambda: child.running)
    assert pid_of(child) != first
    assert child.restarts == 1
    assert desk.dead == [first]
    assert len(desk.reports) == 1
    assert "worker-0 died (signal 9); starting it again in 0.5 s" in desk.reports[0]
    assert desk.changes == 3  # started, died, started


def test_the_pause_before_a_restart_grows(desk: Desk) -> None:
    child = desk.start(SLEEP)
    for _ in range(2):
        restarts = child.restarts
        os.kill(pid_of(child), signal.SIGKILL)
        desk.check_until(lambda: child.restarts > restarts)  # noqa: B023
    assert ["0.5 s" in desk.reports[0], "1 s" in desk.reports[1]] == [True, True]


def test_a_child_that_has_worked_is_started_again_in_the_same_breath(
    desk: Desk, monkeypatch
) -> None:
    monkeypatch.setattr("cli.backoff.HEALTHY", 0)
    child = desk.start(SLEEP)
    os.kill(pid_of(child), signal.SIGKILL)
    until(lambda: not child.running, what="its death")
    desk.supervisor.check()
    assert child.running
    assert child.restarts == 1
    assert "died (signal 9); starting it again at once" in desk.reports[0]


def test_exit_code_78_is_fatal_at_once_and_gives_the_last_line(desk: Desk) -> None:
    desk.start("import sys; print('noise'); print('The model is gone.'); sys.exit(78)")
    with pytest.raises(StackError, match=r"^worker-0 stopped: The model is gone\.$"):
        desk.check_until(lambda: False)
    assert desk.reports == []


def test_a_child_that_never_starts_is_given_up(desk: Desk, monkeypatch) -> None:
    monkeypatch.setattr("cli.backoff.FIRST", 0.01)
    child = desk.start("import sys; sys.exit('no luck')")
    with pytest.raises(StackError, match=r"keeps dying as it starts .* no luck"):
        desk.check_until(lambda: False)
    assert child.restarts == 4


def test_a_program_that_is_not_there_is_a_clear_error(desk: Desk) -> None:
    with pytest.raises(StackError, match="w can't be started"):
        desk.supervisor.start(desk.child("worker", "w", ["/no/such/program"]))


def test_children_do_not_share_the_terminals_process_group(desk: Desk) -> None:
    child = desk.start(SLEEP)
    assert os.getpgid(pid_of(child)) == pid_of(child)
    # Within a session the kernel weighs threads, not processes, against each other.
    assert os.getsid(pid_of(child)) == os.getsid(0)


def test_the_log_of_the_run_before_is_kept(desk: Desk, tmp_path: Path) -> None:
    log = tmp_path / "redis-0.log"
    log.write_text("before")
    child = desk.start(SLEEP, role="redis")
    says(child, "up")
    assert (tmp_path / "redis-0.log.1").read_text() == "before"
    assert "before" not in log.read_text()


def test_wait_ends_as_soon_as_all_have_ended(desk: Desk) -> None:
    child = desk.start(SLEEP)
    child.terminate()
    began = time.monotonic()
    stopping.wait([child], seconds=30, hurry=lambda: False)
    assert not child.running
    assert time.monotonic() - began < 5


def test_a_child_that_will_not_stop_is_waited_for_and_then_killed(desk: Desk) -> None:
    child = desk.start(STUBBORN)
    says(child, "up")
    child.terminate()
    stopping.wait([child], seconds=0.2, hurry=lambda: False)
    assert child.running
    child.kill()
    assert not child.running
    assert child.exit_code == -signal.SIGKILL


def test_a_hurry_ends_the_wait(desk: Desk) -> None:
    child = desk.start(STUBBORN)
    says(child, "up")
    child.terminate()
    began = time.monotonic()
    stopping.wait([child], seconds=30, hurry=lambda: True)
    assert child.running
    assert time.monotonic() - began < 5


def test_kill_takes_what_the_child_has_started(desk: Desk) -> None:
    child = desk.start(
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid,"
        " flush=True); import time; time.sleep(60)"
    )
    until(lambda: child.log.read_text().endswith("\n"), what="the grandchild's pid")
    grandchild = int(child.log.read_text())
    child.kill()
    until(lambda: not _alive(grandchild), what="the grandchild's end")


def test_a_child_inherits_the_lock(desk: Desk) -> None:
    fcntl.flock(desk.lock, fcntl.LOCK_EX)
    child = desk.start(SLEEP)
    desk.lock.close()  # as the kernel does it for a supervisor that dies
    with Path(desk.lock.name).open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.kill()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_childs_input_ends_with_the_supervisor_and_not_with_another_child(desk: Desk) -> None:
    child = desk.start("import sys; print('up', flush=True); sys.stdin.read(); print('alone')")
    desk.start(SLEEP)  # must not hold the other end
    says(child, "up")
    assert child.running
    child._close_input()  # as the kernel does it for a supervisor that dies
    says(child, "alone")


def test_stop_signals_interrupt_at_first_and_only_count_later() -> None:
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signals.defer()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
        assert signals.count == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def _alive(pid: int) -> bool:
    """An orphan is reaped by init, which in a container may be nobody: a zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_log_does_not_fill_the_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child goes on writing to it, and what it wrote last is kept."""
    monkeypatch.setattr("cli.child.LOG_BYTES", 10_000)
    talkative = (
        "import itertools, time\n"
        "for number in itertools.count():\n"
        "    print('line', number, flush=True); time.sleep(0.0005)"
    )
    log = desk.start(talkative).log
    older = log.with_suffix(".log.1")
    desk.check_until(lambda: older.exists() and "line 3000\n" in log.read_text())
    assert log.stat().st_size < 20_000
    assert older.stat().st_size < 20_000
    assert "\0" not in log.read_text()  # no hole where the old end was
