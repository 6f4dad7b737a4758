"""`minivault up` is killed with SIGKILL: nothing is served twice, and no job is lost."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.client import Client
from shared.configuration import load_settings
from shared.queue import workers
from shared.redis import connect
from tests.support.poll import until
from tests.support.stack import Stack, is_alive, running_stack

COUNT = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 80, "temperature": 0, "raw": True}
LOST = "An earlier stack lost its supervisor; stopping what is left of it"


@pytest.fixture
def stack(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    folder = short_tmp / f"death{abs(hash(request.node.nodeid)) % 10**8}"
    with running_stack(folder, SHUTDOWN_GRACE=1, THREADS=1) as stack:
        yield stack


def kill_supervisor(stack: Stack) -> list[psutil.Process]:
    """Returns what it leaves behind."""
    supervisor, *children = stack.processes()
    supervisor.kill()
    stack.supervisor.wait(timeout=10)
    return children


def text_of(stack: Stack) -> str:
    """Of the undisturbed run."""
    with Client(stack.url) as client:
        return "".join(event.text for event in client.stream(**COUNT))


def wait_for_tokens(stack: Stack, job_id: str) -> None:
    with Client(stack.url) as client:
        until(lambda: client.job(job_id).response, seconds=60, what="the first tokens")


def test_the_children_end_by_themselves_and_jobs_go_on_after_the_next_start(stack: Stack) -> None:
    whole = text_of(stack)
    with Client(stack.url) as client:
        running, waiting = (client.submit(**COUNT).id for _ in range(2))
    wait_for_tokens(stack, running)
    children = kill_supervisor(stack)
    until(lambda: not any(map(is_alive, children)), seconds=40, what="their end")
    assert [process for process in stack.all_processes() if is_alive(process)] == []

    stack.start()
    stack.wait_ready()
    assert LOST not in stack.output
    with Client(stack.url) as client:
        for job_id in (running, waiting):
            events = list(client.events(job_id))
            assert "".join(event.text for event in events) == whole
            assert events[-1].name == "done"


def test_a_new_stack_takes_over_what_a_stream_is_still_coming_from(stack: Stack) -> None:
    """The client that follows it sees nothing but a pause."""
    whole = text_of(stack)
    with Client(stack.url) as client:
        events = client.stream(**COUNT)
        text = ""
        while not text:
            text += next(events).text
        children = kill_supervisor(stack)
        stack.start()
        stack.wait_ready()
        assert [process for process in children if is_alive(process)] == []
        text += "".join(event.text for event in events)
    assert text == whole
    assert LOST in stack.output
    found = stack.status()
    assert found["ready"]
    assert {process["pid"] for process in found["processes"]}.isdisjoint(
        process.pid for process in children
    )


def test_what_can_not_end_by_itself_is_killed_by_the_next_start(stack: Stack) -> None:
    """A frozen worker, and a server without the watch that would have stopped it."""
    server = psutil.Process(stack.pid("redis"))
    (watch,) = server.children()
    watch.kill()
    worker = psutil.Process(stack.pid("worker"))
    frozen = [worker, *worker.children(recursive=True)]
    with Client(stack.url) as client:
        # With this to do, a worker that is told to end takes its time.
        wait_for_tokens(stack, client.submit(**{**COUNT, "max_tokens": 1000}).id)
    children = kill_supervisor(stack)
    # Not before: what is frozen when its parent dies is woken and told to end by the kernel.
    for process in frozen:
        process.suspend()
    assert is_alive(server)
    stack.start()
    stack.wait_ready()
    assert LOST in stack.output
    assert "worker-1 did not stop in time and is killed" in stack.output
    assert [process for process in children if is_alive(process)] == []
    assert stack.stop(signal.SIGTERM) == 0
    until(lambda: stack.all_processes() == [], what="the end of all")


def test_a_job_goes_on_when_the_supervisor_tells_of_its_workers_death(stack: Stack) -> None:
    whole = text_of(stack)
    with Client(stack.url) as client:
        job_id = client.submit(**COUNT).id
        wait_for_tokens(stack, job_id)
        worker = psutil.Process(stack.pid("worker"))
        with connect(load_settings(data_dir=stack.data), "test") as redis:
            (name,) = workers(redis)
            for process in [worker, *worker.children(recursive=True)]:
                process.kill()  # the first can't tell of the second's death any more
            # Its silence would be noticed 8 s from now at the earliest.
            until(lambda: name not in workers(redis), seconds=6, what="the supervisor's word")
        assert "".join(event.text for event in client.events(job_id)) == whole
    assert "worker-1 died (signal 9); starting it again" in stack.output
    jobs = json.loads(stack.command("jobs", "list", "--json").stdout)
    assert jobs == []
