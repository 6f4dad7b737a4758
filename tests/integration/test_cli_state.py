"""One stack to a folder, and its notes for `status`."""

import os
import subprocess
import sys

import pytest

from cli import state
from cli.lock import ChildrenLock, stack_lock
from cli.state import ProcessState, StackState
from shared.configuration import load_settings
from shared.errors import StackError
from tests.support.poll import until


@pytest.fixture
def own_settings(tmp_path):
    settings = load_settings(data_dir=tmp_path / "data")
    settings.prepare_data_dir()
    return settings


def test_the_second_stack_on_a_folder_is_told_the_firsts_pid(own_settings) -> None:
    told = pytest.raises(StackError, match=rf"already runs .* \(pid {os.getpid()}\)")
    with stack_lock(own_settings), told, stack_lock(own_settings):
        pass
    with stack_lock(own_settings):
        pass


def test_a_killed_holder_leaves_no_lock(own_settings) -> None:
    holder = (
        "import os, sys; from shared.configuration import load_settings\n"
        "from cli.lock import stack_lock\n"
        "with stack_lock(load_settings(data_dir=sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", holder, str(own_settings.data_dir)]
    assert subprocess.run(command).returncode == -9
    with stack_lock(own_settings):
        pass


def test_the_childrens_lock_is_free_when_the_last_who_inherited_it_is_gone(own_settings) -> None:
    with ChildrenLock(own_settings) as lock:
        assert lock.acquire()
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    with child, ChildrenLock(own_settings) as lock:
        assert not lock.acquire()
        child.communicate()
        assert lock.acquire()


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    noted = ProcessState("api", "api", process.pid, "running", 0, state.start_time(process.pid))
    assert process.stdin is not None
    process.stdin.close()
    until(lambda: noted.checked().state == "dead", what="its death")  # not waited for yet
    process.wait()


def test_notes_are_read_back_and_removed(own_settings) -> None:
    noted = StackState(7, "http://x", (ProcessState("api", "api", 8, "running", 2, 123.45),))
    state.write(own_settings, noted)
    assert state.read(own_settings) == noted
    state.remove(own_settings)
    assert state.read(own_settings) is None


def test_a_process_noted_as_running_that_is_gone_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    noted = ProcessState(
        "worker", "worker-1", process.pid, "running", 0, state.start_time(process.pid)
    )
    assert noted.checked().state == "running"
    process.communicate()
    assert noted.checked().state == "dead"


def test_a_reused_pid_is_not_the_process_that_was_noted() -> None:
    started_at = state.start_time(os.getpid())
    assert started_at is not None
    noted = ProcessState("worker", "worker-1", os.getpid(), "running", 0, started_at - 1)
    assert noted.checked().state == "dead"
