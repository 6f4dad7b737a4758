"""The stack goes down within its grace time, and volumes bring back what it knew."""

import time

import httpx

from tests.compose.stack import ComposeStack
from tests.support.poll import until

GRACE_SECONDS = 40
KILLED = 137


def test_down_kills_nobody_and_up_goes_on_where_it_was(stack: ComposeStack) -> None:
    stack.up("--scale", "worker=2")
    before = {row["id"] for row in stack.history()}
    jobs = [
        httpx.post(
            f"{stack.url}/jobs",
            json={"prompt": f"Count to {n}.", "raw": True, "max_tokens": 300},
            timeout=60,
        ).json()["id"]
        for n in range(100)
    ]
    until(
        lambda: httpx.get(f"{stack.url}/jobs/{jobs[0]}").json()["status"] == "running",
        seconds=30,
        what="work under way",
    )
    began = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - began < GRACE_SECONDS
    ended = {each["Name"]: each["State"]["ExitCode"] for each in stack.containers()}
    assert KILLED not in ended.values(), ended
    stack.compose("down")

    stack.up("--scale", "worker=2")
    assert before <= {row["id"] for row in stack.history()}
    until(
        lambda: all(
            httpx.get(f"{stack.url}/jobs/{job}").json()["status"] == "done" for job in jobs
        ),
        seconds=300,
        what="the end of all jobs",
    )
    rows = [row["id"] for row in stack.history() if row["id"] in jobs]
    assert sorted(rows) == sorted(jobs)
