"""docs/client.md, word for word, and the client through the death of the API."""

import asyncio
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import AsyncClient, Client, Resumed, Token
from tests.support.poll import until
from tests.support.stack import Stack, running_stack

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", PAGE, re.DOTALL)
STORY = {"prompt": "Tell me a long story about a fox.", "temperature": 0, "max_tokens": 500}


@pytest.fixture(scope="module")
def stack(short_tmp: Path) -> Iterator[Stack]:
    with running_stack(short_tmp / "client") as stack:
        yield stack


def test_each_example_says_what_it_prints() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") >= 7
    assert all(printed for _, printed in EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_documentation(stack: Stack, number: int) -> None:
    code, printed = EXAMPLES[number]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code.replace("http://127.0.0.1:8000", stack.url), {"__name__": "__main__"})
    assert output.getvalue() == printed


def test_a_program_that_waits_and_one_that_awaits_survive_the_api_and_the_worker(
    stack: Stack,
) -> None:
    with Client(stack.url) as client:
        whole = client.generate(**STORY).response
        stream = client.stream(**STORY)
        for event in stream:
            if isinstance(event, Token):
                break
        os.kill(stack.pid("api"), signal.SIGKILL)
        assert stream.answer().response == whole
    until(lambda: stack.pid("worker"), what="the worker")

    async def follow() -> tuple[str, list[int], bool]:
        numbers, resumed = [], False
        async with AsyncClient(stack.url) as client:
            stream = client.stream(**STORY)
            async for event in stream:
                if len(numbers) == 5:
                    stack.strike("worker")
                resumed |= isinstance(event, Resumed)
                numbers += [event.seq] if event.seq else []
            return stream.text, numbers, resumed

    text, numbers, resumed = asyncio.run(follow())
    assert (text, numbers) == (whole, list(range(1, len(numbers) + 1)))
    assert resumed, (len(numbers), len(whole))


def test_the_library_brings_no_service_along() -> None:
    heavy = "{'torch', 'transformers', 'fastapi', 'typer', 'redis', 'sqlalchemy', 'pydantic'}"
    code = f"import sys, cli.client; print(sorted({heavy} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
