"""Children whose supervisor is gone: they end by themselves, or are stopped by the next one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli import leftovers, state
from cli.child import Child
from cli.lock import ChildrenLock
from cli.state import ProcessState, StackState
from shared.configuration import load_settings
from shared.errors import StackError
from shared.settings import Settings
from tests.support.poll import until
from tests.support.stack import is_alive

ORDERLY = (
    "import signal, sys, time;"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('stops', flush=True)));"
    "print('up', flush=True); time.sleep(60)"
)
STUBBORN = ORDERLY.replace("lambda *_: sys.exit(print('stops', flush=True))", "signal.SIG_IGN")
LEASHED = f"from cli.leash import stop_with_supervisor; stop_with_supervisor(); {ORDERLY}"


class Started:
    """A process whose input ends when `let_go` is called."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.says("up")

    def says(self, text: str) -> None:
        until(lambda: text in self.log.read_text(), what=f"{text!r} in {self.log}")

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.let_go()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Started] = []

    def start(*command: str) -> Started:
        started.append(Started(tmp_path / f"{len(started)}.log", *command))
        return started[-1]

    yield start
    for each in started:
        each.end()


def guarded(seconds: float, code: str) -> tuple[str, ...]:
    """The stand-in server is the child itself; its watch is a fork beside it."""
    server = (sys.executable, "-c", code)
    return (sys.executable, "-m", "cli.guard", str(seconds), *server)


def watch_of(server: Started) -> psutil.Process:
    (watch,) = psutil.Process(server.process.pid).children()
    return watch


def test_a_leashed_process_stops_as_on_sigterm_when_its_input_ends(start) -> None:
    leashed = start(sys.executable, "-c", LEASHED)
    leashed.let_go()
    assert leashed.process.wait(timeout=10) == 0
    leashed.says("stops")


def test_what_a_leashed_process_starts_does_not_get_the_lock(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        code = (
            "from cli.leash import stop_with_supervisor; stop_with_supervisor()\n"
            f"import os; print(os.get_inheritable({lock.fileno()}), flush=True)\n"
            "import time; time.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(lock.fileno(),),
        ) as leashed:
            assert leashed.stdout is not None
            assert leashed.stdout.readline() == b"False\n"
            leashed.kill()


def test_a_guarded_server_is_the_child_itself_and_ends_as_it_ends(start) -> None:
    server = start(*guarded(60, ORDERLY))
    watch = watch_of(server)
    assert psutil.Process(server.process.pid).cmdline()[1:] == ["-c", ORDERLY]
    server.process.kill()
    assert server.process.wait(timeout=10) == -signal.SIGKILL
    until(lambda: not is_alive(watch), what="the end of the watch")


def test_a_guarded_server_is_stopped_a_while_after_its_input_has_ended(start) -> None:
    server = start(*guarded(0.5, ORDERLY))
    began = time.monotonic()
    server.let_go()
    assert server.process.wait(timeout=10) == 0
    assert time.monotonic() - began >= 0.5
    server.says("stops")


def test_a_guarded_server_that_ends_by_itself_takes_its_watch_along(start) -> None:
    server = start(*guarded(60, ORDERLY))
    watch = watch_of(server)
    server.let_go()  # the watch is waiting now
    server.process.terminate()
    assert server.process.wait(timeout=10) == 0
    until(lambda: not is_alive(watch), what="the end of the watch")


def test_a_guarded_server_goes_on_without_its_watch(start) -> None:
    server = start(*guarded(0, ORDERLY))
    watch = watch_of(server)
    watch.kill()
    until(lambda: not is_alive(watch), what="the end of the watch")
    server.let_go()
    assert server.process.poll() is None  # the next supervisor finds it


@pytest.fixture
def own_settings(tmp_path: Path) -> Settings:
    settings = load_settings(data_dir=tmp_path / "data", shutdown_grace=0)
    settings.prepare_data_dir()
    return settings


class DeadSupervisor:
    """Has started children under the lock, noted them, and lives no more."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: list[Child] = []
        self._noted: list[ProcessState] = []
        self._lock = ChildrenLock(settings)
        assert self._lock.acquire()

    def start(self, role: str, name: str, code: str, *, noted: bool = True) -> Child:
        child = Child(
            role,
            name,
            [sys.executable, "-c", code],
            self._settings.logs_dir / f"{name}.log",
            inherited=self._lock.fileno(),
        )
        child.start()
        self._children.append(child)
        until(lambda: "up" in child.log.read_text(), what=f"{name}")
        if noted:
            self._noted.append(child.describe())
        return child

    def die(self) -> None:
        state.write(self._settings, StackState(1, "http://x", tuple(self._noted)))
        self._lock.__exit__(None, None, None)

    def reap(self) -> None:
        for child in self._children:
            child.kill()


@pytest.fixture
def supervisor(own_settings: Settings) -> Iterator[DeadSupervisor]:
    supervisor = DeadSupervisor(own_settings)
    yield supervisor
    supervisor.reap()


def test_a_free_lock_is_just_taken(own_settings: Settings) -> None:
    reports: list[str] = []
    with ChildrenLock(own_settings) as lock:
        leftovers.clear(own_settings, lock, reports.append)
    assert reports == []


def test_leftovers_are_asked_to_stop_in_order(
    own_settings: Settings, supervisor: DeadSupervisor
) -> None:
    """Each says the time; the server is the last although it was started first."""
    timed = ORDERLY.replace("print('stops'", "print('stops', time.monotonic_ns()")
    names = ("redis", "api", "worker")
    children = [supervisor.start(name, name, timed) for name in names]
    pids = [child.pid for child in children]
    supervisor.die()
    reports: list[str] = []
    with ChildrenLock(own_settings) as lock:
        leftovers.clear(own_settings, lock, reports.append)
    assert [child.running for child in children] == [False] * 3
    times = {child.name: int(child.last_words().split()[1]) for child in children}
    assert sorted(names, key=lambda name: times[name]) == ["api", "worker", "redis"]
    assert reports == ["An earlier stack lost its supervisor; stopping what is left of it"]
    assert leftovers.worker_pids(own_settings) == [pids[2]]


def test_a_leftover_that_will_not_stop_is_killed_with_all_it_started(
    own_settings: Settings, supervisor: DeadSupervisor, monkeypatch
) -> None:
    monkeypatch.setattr("cli.stopping.KILL_MARGIN_SECONDS", 0.2)
    spawn = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    )
    worker = supervisor.start("worker", "worker-1", spawn + STUBBORN)
    (grandchild,) = psutil.Process(worker.pid).children()
    assert is_alive(grandchild)
    supervisor.die()
    reports: list[str] = []
    with ChildrenLock(own_settings) as lock:
        leftovers.clear(own_settings, lock, reports.append)
    assert not worker.running
    assert worker.exit_code == -signal.SIGKILL
    assert "worker-1 did not stop in time and is killed" in reports
    until(lambda: not is_alive(grandchild), what="the end of what it had started")


def test_a_leftover_that_nobody_noted_is_found_by_the_lock_it_holds(
    own_settings: Settings, supervisor: DeadSupervisor, monkeypatch
) -> None:
    monkeypatch.setattr("cli.leftovers.KILL_MARGIN_SECONDS", 0.2)
    unknown = supervisor.start("worker", "worker-1", STUBBORN, noted=False)
    supervisor.die()
    reports: list[str] = []
    with ChildrenLock(own_settings) as lock:
        leftovers.clear(own_settings, lock, reports.append)
    assert not unknown.running
    assert reports[1:] == [f"Process {unknown.pid} did not stop in time and is killed"]


def test_a_lock_that_can_not_be_had_is_a_clear_error(
    own_settings: Settings, supervisor: DeadSupervisor, monkeypatch
) -> None:
    monkeypatch.setattr("cli.leftovers.KILL_MARGIN_SECONDS", 0.1)
    monkeypatch.setattr("cli.leftovers._holders", lambda _: [])  # as if it were another user's
    supervisor.start("worker", "worker-1", STUBBORN, noted=False)
    supervisor.die()
    with (
        ChildrenLock(own_settings) as lock,
        pytest.raises(StackError, match=f"still uses {own_settings.data_dir}: .*children.lock"),
    ):
        leftovers.clear(own_settings, lock, lambda _: None)


def test_a_process_that_got_a_leftovers_pid_is_left_alone(
    start,
) -> None:
    innocent = start(sys.executable, "-c", ORDERLY)
    pid = innocent.process.pid
    started_at = state.start_time(pid)
    assert started_at is not None
    leftover = leftovers.Leftover(ProcessState("worker", "w", pid, "running", 0, started_at - 1))
    assert not leftover.running
    leftover.terminate()
    leftover.kill()
    assert innocent.process.poll() is None
    assert "stops" not in innocent.log.read_text()
