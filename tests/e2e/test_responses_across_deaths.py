"""A background response, followed by the official SDK while worker and API are killed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIConnectionError
from openai.types.responses import ResponseStreamEvent

from cli.client import is_ready
from tests.support.openai_sdk import sdk
from tests.support.poll import until
from tests.support.stack import Stack, running_stack

MODEL = "smollm2-135m"
STORY: dict[str, Any] = {
    "model": MODEL,
    "input": "Tell me a long story about a fox.",
    "max_output_tokens": 800,
    "temperature": 0,
}
DEATHS = [(60, ["worker"]), (600, ["api"]), (1200, ["worker", "api"])]
"""Characters after which these are killed."""


@pytest.fixture(scope="module")
def stack(short_tmp: Path) -> Iterator[Stack]:
    with running_stack(short_tmp / "responses") as stack:
        yield stack


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5, "extra_body": {"seed": 7}}])
def test_every_event_comes_once_across_deaths_of_worker_and_api(
    stack: Stack, sampling: dict[str, Any]
) -> None:
    with sdk(stack.url) as client:
        undisturbed = client.responses.create(**STORY | sampling)
        events: list[ResponseStreamEvent] = []
        deaths = list(DEATHS)
        response_id, said, reconnections = "", "", 0
        deadline = time.monotonic() + 150
        while not events or events[-1].type not in {"response.completed", "response.incomplete"}:
            assert time.monotonic() < deadline, stack.logs()
            try:
                if not events:
                    stream = client.responses.create(
                        **STORY | sampling, background=True, stream=True
                    )
                else:
                    reconnections += 1
                    stream = client.responses.retrieve(
                        response_id, stream=True, starting_after=events[-1].sequence_number
                    )
                for event in stream:
                    events.append(event)
                    if event.type == "response.created":
                        response_id = event.response.id
                    elif event.type == "response.output_text.delta":
                        said += event.delta
                    if deaths and len(said) > deaths[0][0]:
                        for role in deaths.pop(0)[1]:
                            stack.strike(role)
            except APIConnectionError:
                time.sleep(0.1)  # as a client does; the loop has a deadline
        until(lambda: is_ready(stack.url), seconds=60, what="readiness")  # the end may come first
        assert not deaths
        assert reconnections >= 2
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert said == undisturbed.output_text
        final = client.responses.retrieve(response_id)
        assert final.output_text == said
        assert final.status == undisturbed.status
        assert final.usage is not None
        assert undisturbed.usage is not None
        # What was known of the prompt already is the luck of each attempt.
        assert final.usage.total_tokens == undisturbed.usage.total_tokens
        # Told again from the beginning, by a process that has seen none of it.
        assert list(client.responses.retrieve(response_id, stream=True)) == events
