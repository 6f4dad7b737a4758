"""The stack goes down within its grace time, and volumes bring back what it knew."""

import time

import httpx

from tests.compose.stack import ComposeStack
from tests.support.poll import until

GRACE_SECONDS = 40
KILLED = 137
JOBS = 80  # more than both workers have slots


def test_down_kills_nobody_and_up_goes_on_where_it_was(stack: ComposeStack) -> None:
    stack.up("--scale", "worker=2")
    before = {row["id"] for row in stack.history()}
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        jobs = [submit(client, f"Count to {n}.") for n in range(JOBS)]
        until(lambda: status(client, jobs[0]) == "running", seconds=30, what="work under way")
    began = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - began < GRACE_SECONDS
    ended = {each["Name"]: each["State"]["ExitCode"] for each in stack.containers()}
    assert KILLED not in ended.values(), ended
    stack.compose("down")

    stack.up("--scale", "worker=2")
    assert before <= {row["id"] for row in stack.history()}
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        for job in jobs:
            until(lambda job=job: status(client, job) == "done", seconds=300, what=f"end of {job}")
    rows = [row["id"] for row in stack.history() if row["id"] in jobs]
    assert sorted(rows) == sorted(jobs)


def submit(client: httpx.Client, prompt: str) -> str:
    answer = client.post("/jobs", json={"prompt": prompt, "raw": True, "max_tokens": 200})
    return str(answer.json()["id"])


def status(client: httpx.Client, job: str) -> str:
    return str(client.get(f"/jobs/{job}").json()["status"])
