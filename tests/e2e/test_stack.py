"""`minivault up` with real processes, from start to stop."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cli.client import is_ready
from shared.configuration import load_settings
from tests.support.models import REAL, seed_real_model
from tests.support.poll import until
from tests.support.stack import MINIVAULT, Stack, is_alive, running_stack
from worker.engine.native import library

METRICS_PORT = 29_170  # and the next; no system hands these out by itself
QUESTION = {"prompt": "What is the capital of England?", "temperature": 0}


@pytest.fixture(scope="module")
def stack(short_tmp: Path) -> Iterator[Stack]:
    """One stack for the tests that leave it as it was."""
    with running_stack(short_tmp / "up", METRICS_PORT=METRICS_PORT) as stack:
        yield stack


@pytest.fixture
def folder(short_tmp: Path, request: pytest.FixtureRequest) -> Path:
    folder = short_tmp / f"stack{abs(hash(request.node.nodeid)) % 10**8}"
    folder.mkdir()
    return folder


def test_it_answers(stack: Stack) -> None:
    answer = httpx.post(f"{stack.url}/generate", json=QUESTION, timeout=60).json()
    assert "London" in answer["response"]


def test_the_commands_reach_it(stack: Stack) -> None:
    whole = stack.command("generate", QUESTION["prompt"], "--temperature", "0")
    streamed = stack.command("stream", QUESTION["prompt"], "--temperature", "0")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "London" in whole.stdout
    assert streamed.stdout == whole.stdout
    rows = until(lambda: json.loads(stack.command("history", "--json").stdout))
    assert rows[0]["prompt"] == QUESTION["prompt"]
    assert rows[0]["response"] == whole.stdout.removesuffix("\n")


def test_each_process_has_a_port_for_its_metrics(stack: Stack) -> None:
    api, worker = (f"http://127.0.0.1:{METRICS_PORT + number}" for number in (0, 1))
    assert "minivault_http_requests_total" in httpx.get(f"{api}/metrics").text
    assert "minivault_generation_tokens_total" in httpx.get(f"{worker}/metrics").text
    assert httpx.get(f"{worker}/readyz").is_success
    assert httpx.get(f"{stack.url}/metrics").status_code == 404


def test_status_tells_what_runs(stack: Stack) -> None:
    until(  # the streams before have ended, which a worker tells with its next heartbeat
        lambda: not any(each.get("running") for each in stack.status()["processes"]),
        what="an idle worker",
    )
    result = stack.command("status", "--json")
    assert result.returncode == 0
    status = json.loads(result.stdout)
    assert (status["ready"], status["url"]) == (True, stack.url)
    started = {process.pid for process in stack.processes()}
    for process in status["processes"]:
        assert process["pid"] in started
        assert process["state"] == "running"
    assert [process["role"] for process in status["processes"]] == ["redis", "api", "worker"]
    worker = status["processes"][2]
    assert (worker["running"], worker["slots"]) == (0, 32)
    assert worker["kv_bytes"] > 0
    assert status["models"] == [
        {"name": REAL, "default": True, "ready": True, "loaded": 1, "waiting": 0, "running": 0}
    ]
    assert status["jobs"] == {"stuck": 0, "retried": 0, "failed": 0, "unsaved": 0}


def test_status_is_plain_when_piped(stack: Stack) -> None:
    lines = stack.command("status").stdout.splitlines()
    assert lines[0] == f"Ready: {stack.url}"
    assert lines[1].split("\t")[:2] == ["redis", "redis"]
    assert lines[3].split("\t")[5] == "0/32"
    assert lines[5] == "Jobs: 0 stuck, 0 retried, 0 failed, 0 unsaved"
    assert len(lines) == 6


def test_ps_shows_what_the_processes_are(stack: Stack) -> None:
    commands = {
        " ".join(process.cmdline()).rpartition("/minivault ")[2].partition(" --metrics-port")[0]
        for process in stack.processes()
        if "valkey" not in " ".join(process.cmdline())  # the server, and the watch beside it
    }
    assert commands == {"api --supervised", "up", "worker --supervised"}


def test_a_second_stack_on_the_folder_is_refused_and_the_first_goes_on(stack: Stack) -> None:
    refused = stack.command("up")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"A stack already runs on {stack.data} (pid {stack.supervisor.pid}). "
        "Stop it, or set MINIVAULT_DATA_DIR to another folder.\n"
    )
    assert stack.status()["ready"]


def test_a_taken_port_is_one_line(stack: Stack, folder: Path) -> None:
    refused = Stack(folder, PORT=stack.port).command("up")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"Port {stack.port} on 127.0.0.1 is taken. Free it, or set MINIVAULT_PORT.\n"
    )


def test_a_data_folder_that_can_not_be_written_is_one_line(folder: Path) -> None:
    (folder / "data").write_text("a file in the folder's place")
    refused = Stack(folder).command("up")
    assert refused.returncode == 78
    assert refused.stderr.startswith(f"The data folder {folder}/data can't be written (")
    assert refused.stderr.count("\n") == 1


def test_an_unreachable_redis_is_one_line(folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"redis://user:secret@127.0.0.1:{nobody.getsockname()[1]}/0"
        refused = Stack(folder, REDIS_URL=url).command("up")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Redis at redis://127.0.0.1:")
    assert "can't be reached" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_corrupt_model_is_one_line(folder: Path, damage: str) -> None:
    stack = Stack(folder)
    settings = load_settings(data_dir=stack.data)
    seed_real_model(settings)
    link = settings.models_dir / REAL
    real = link.resolve()
    link.unlink()
    link.mkdir()
    for path in real.iterdir():
        (link / path.name).write_bytes(path.read_bytes())
    weights = link / "model.safetensors"
    with weights.open("r+b") as file:
        if damage == "cut":
            file.truncate(weights.stat().st_size - 1)
        else:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
    refused = stack.command("up")
    weights.unlink()  # half a gigabyte
    assert refused.returncode == 78
    assert refused.stderr.startswith(f"The model {REAL} is damaged: {weights} ")
    assert f"`minivault models pull {REAL} --force`" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_two_stacks_run_side_by_side_and_one_stops_and_starts_again(folder: Path) -> None:
    with running_stack(folder / "a") as first, running_stack(folder / "b") as second:
        ours = json.loads(first.command("generate", "Hello", "--max-tokens", "4", "--json").stdout)
        assert httpx.get(f"{first.url}/jobs/{ours['id']}").status_code == 200
        assert httpx.get(f"{second.url}/jobs/{ours['id']}").status_code == 404
        assert_stops(first, signal.SIGINT)
        assert not (first.data / "run.json").exists()
        stopped = first.command("status")
        assert stopped.returncode == 1
        assert stopped.stdout.startswith("Not ready: ")
        assert second.status()["ready"]
        first.start()
        first.wait_ready()
        # What the append-only file held is there again.
        assert httpx.get(f"{first.url}/jobs/{ours['id']}").status_code == 200


def test_a_terminal_that_is_gone_keeps_nothing_alive(folder: Path) -> None:
    """As `minivault up 2>&1 | tee log` leaves it when Ctrl-C ends tee first."""
    stack = Stack(folder)
    seed_real_model(load_settings(data_dir=stack.data))
    reader, writer = os.pipe()
    stack.process = subprocess.Popen(
        [MINIVAULT, "up"], cwd=folder, env=stack.environment, stdout=writer, stderr=writer
    )
    os.close(writer)
    try:
        until(lambda: is_ready(stack.url), seconds=60, what="readiness")
        processes = stack.processes()
        os.close(reader)
        stack.supervisor.send_signal(signal.SIGINT)
        stack.supervisor.wait(timeout=15)
        assert [process for process in processes if is_alive(process)] == []
    finally:
        stack.kill()


def test_a_stop_in_the_middle_of_a_long_answer(folder: Path) -> None:
    body = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 1024, "temperature": 0, "raw": True}
    # One thread: on a busy machine a step of several takes as long as the slowest of them.
    with running_stack(folder, THREADS=1) as stack:
        with httpx.stream("POST", f"{stack.url}/generate/stream", json=body, timeout=60) as stream:
            next(line for line in stream.iter_lines() if line == "event: token")
            assert_stops(stack, signal.SIGTERM)
        assert "is killed" not in stack.output, stack.logs()


def assert_stops(stack: Stack, number: signal.Signals) -> None:
    """With success, within 10 s, and without leaving a process."""
    processes = stack.processes()
    roles = {process.pid for process in processes} & {
        stack.pid(role) for role in ("redis", "api", "worker")
    }
    assert len(roles) == 3
    began = time.monotonic()
    assert stack.stop(number) == 0
    assert [process for process in processes if is_alive(process)] == []
    assert time.monotonic() - began < 10


def test_a_second_ctrl_c_kills_at_once(folder: Path) -> None:
    with running_stack(folder, SHUTDOWN_GRACE=60) as stack:
        processes = stack.processes()
        frozen = psutil.Process(stack.pid("worker"))
        frozen.suspend()  # it will not obey
        stack.supervisor.send_signal(signal.SIGINT)
        until(lambda: "Stopping" in stack.output, what="the stop")
        assert stack.stop(seconds=5) == 0
        assert [process for process in processes if is_alive(process)] == []


def test_killed_processes_are_started_again_and_the_service_answers(folder: Path) -> None:
    with running_stack(folder) as stack:
        for role in ("worker", "api", "redis"):
            killed = stack.pid(role)
            os.kill(killed, signal.SIGKILL)
            until(
                lambda: stack.pid(role) not in (0, killed) and is_ready(stack.url),  # noqa: B023
                seconds=40,
                what=f"a new {role}",
            )
            answer = stack.command("generate", QUESTION["prompt"], "--temperature", "0")
            assert "London" in answer.stdout, stack.logs()
        assert stack.output.count("died (signal 9); starting it again ") == 3


def test_an_interrupted_first_start_leaves_nothing_half_made(folder: Path) -> None:
    """Ctrl-C during the download or conversion: code 130, and the next start begins anew."""
    stack = Stack(folder)
    stack.start()
    try:
        until(lambda: "Converting" in stack.output, seconds=60, what="the conversion")
        processes = stack.processes()
        assert len(processes) > 1  # also a compiler, for the kernels
        assert stack.stop() == 130
        until(lambda: not any(map(is_alive, processes)), what="their end")
    finally:
        stack.kill()
    left = {path.name for path in (stack.data / "models").iterdir()}
    assert left <= {f".{REAL}.lock", ".kernels"}
    for kernels in (stack.data / "models" / ".kernels").glob("*.so"):
        library.load(kernels)  # made before the stop, so whole
