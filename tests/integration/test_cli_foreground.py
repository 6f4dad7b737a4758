"""`make up` on a terminal: keys reach the stack, and a clean stop is make's success."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.poll import until
from tests.support.terminal import Terminal

SCRIPT = Path(__file__).parents[2] / "scripts" / "foreground.py"
CHILD = """
import signal, sys, time
stop = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: stop.append(number))
signal.signal(signal.SIGCONT, lambda *_: print("child goes on", flush=True))
print("child is up", flush=True)
while not stop:
    time.sleep(0.01)
print("child stops", stop[0], flush=True)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "Makefile").write_text(
        f"code := 0\nup:\n\t@exec {sys.executable} {SCRIPT} {sys.executable} child.py $(code)\n"
    )
    return tmp_path


def test_ctrl_c_stops_the_child_and_make_succeeds(project: Path) -> None:
    with Terminal("make", "up", cwd=project) as terminal:
        terminal.wait_for("child is up")
        terminal.type("\x03")
        terminal.wait_for("child stops 2")
        assert terminal.wait_for_end() == 0
        assert "make:" not in terminal.shown


def test_the_childs_failure_is_makes_failure(project: Path) -> None:
    with Terminal("make", "up", "code=1", cwd=project) as terminal:
        terminal.wait_for("child is up")
        terminal.type("\x03")
        terminal.wait_for("Error 1")
        assert terminal.wait_for_end() == 2


def test_ctrl_z_stops_make_and_fg_continues_it(project: Path) -> None:
    with Terminal("bash", "--norc", "--noprofile", "-i", cwd=project) as terminal:
        terminal.type("make up\n")
        terminal.wait_for("child is up")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.type("fg\n")
        terminal.wait_for("child goes on")
        terminal.type("\x03")
        terminal.wait_for("child stops 2")
        terminal.type("echo code=$?\n")
        terminal.wait_for("code=0")


@pytest.mark.parametrize("whole_group", [True, False])
def test_without_a_terminal_the_child_takes_the_scripts_place(
    project: Path, *, whole_group: bool
) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), sys.executable, "child.py", "0"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"child is up\n"
        if whole_group:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
        assert process.stdout.readline() == b"child stops 15\n"
        assert process.wait(timeout=10) == 0


def test_a_signal_to_the_script_reaches_the_child(project: Path) -> None:
    pid_file = project / "pid"
    shell = f"echo $$ > {pid_file}; exec {sys.executable} {SCRIPT} {sys.executable} child.py 0"
    with Terminal("sh", "-c", shell, cwd=project) as terminal:
        terminal.wait_for("child is up")
        pid = int(until(pid_file.read_text, what="the pid"))
        os.kill(pid, signal.SIGTERM)
        terminal.wait_for("child stops 15")
        assert terminal.wait_for_end() == 0
