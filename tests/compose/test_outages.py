"""What is killed comes back, and no stream is the worse for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.chaos.crowd import Crowd
from tests.chaos.prompts import Request, requests
from tests.compose.stack import ComposeStack, docker
from tests.support.poll import until_async

STREAMS = 16


def asked() -> list[Request]:
    found = requests(STREAMS, seed=4)
    for request in found:
        request.body.pop("stop", None)
        request.body.update(max_tokens=150, raw=True)
    return found


@pytest.fixture(scope="module")
def undisturbed(stack: ComposeStack) -> dict[int, str]:
    crowd = asyncio.run(streamed(stack, _nothing))
    assert [record.connections for record in crowd.records] == [1] * STREAMS
    return {record.request.number: record.text for record in crowd.records}


@pytest.mark.parametrize("service", ["worker", "api", "redis"])
def test_a_killed_container_comes_back_and_nothing_is_lost(
    stack: ComposeStack, undisturbed: dict[int, str], service: str
) -> None:
    victim = stack.containers(service)[0]

    async def kill(crowd: Crowd) -> None:
        await until_async(lambda: _all_streaming(crowd), seconds=60, what="tokens in every stream")
        await asyncio.to_thread(docker, "kill", victim["Id"])

    crowd = asyncio.run(streamed(stack, kill))
    stack.wait_until_healthy()
    again = next(each for each in stack.containers(service) if each["Id"] == victim["Id"])
    assert again["State"]["StartedAt"] > victim["State"]["StartedAt"]
    assert_whole(stack, crowd, undisturbed)
    if service == "api":
        assert sum(record.connections > 1 for record in crowd.records) > STREAMS / 2


def test_a_worker_that_crashes_is_restarted_by_docker(
    stack: ComposeStack, undisturbed: dict[int, str]
) -> None:
    victim = stack.containers("worker")[0]

    async def crash(crowd: Crowd) -> None:
        await until_async(lambda: _all_streaming(crowd), seconds=60, what="tokens in every stream")
        await asyncio.to_thread(stack.crash, victim["Id"])

    crowd = asyncio.run(streamed(stack, crash))
    stack.wait_until_healthy()
    assert stack.containers("worker")[0]["RestartCount"] == victim["RestartCount"] + 1
    assert_whole(stack, crowd, undisturbed)


def assert_whole(stack: ComposeStack, crowd: Crowd, undisturbed: dict[int, str]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in stack.history():
        rows.setdefault(row["id"], []).append(row)
    for record in crowd.records:
        numbers = [arrival.seq for arrival in record.arrivals]
        assert record.ending == "done", record.trouble
        assert numbers == list(range(1, len(numbers) + 1)), record.name
        assert record.text == undisturbed[record.request.number], record.name
        (row,) = rows[record.job_id]
        assert row["response"] == record.text
        assert row["completion_tokens"] == record.usage["completion_tokens"]


async def streamed(stack: ComposeStack, disturb: Callable[[Crowd], Awaitable[None]]) -> Crowd:
    """Sixteen streams at once, and what is done to them once they run."""
    crowd = Crowd(("127.0.0.1", stack.port), asked(), at_once=STREAMS, allowed=STREAMS)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd.run())
        await disturb(crowd)
    return crowd


async def _all_streaming(crowd: Crowd) -> bool:
    """All have begun, and most go on: a few answers are short."""
    streaming = len(list(crowd.streaming()))
    assert crowd.finished < STREAMS / 2, "the answers are too short for this"
    return streaming + crowd.finished == STREAMS


async def _nothing(_: Crowd) -> None:
    """The undisturbed run."""
