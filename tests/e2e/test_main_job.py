"""The main job on the real model: two workers, real sockets, real rows."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from shared.configuration import load_settings
from shared.store import Interaction, Store
from tests.support.poll import until
from tests.support.stack import Stack, running_stack
from tests.support.valkey import running_valkey

STORY = {"prompt": "Tell me a story about a fox.", "temperature": 0, "max_tokens": 40}


@pytest.fixture(scope="module")
def stack(short_tmp: Path) -> Iterator[Stack]:
    with running_stack(short_tmp / "main", WORKERS=2) as stack:
        until(lambda: stack.status()["models"][0]["loaded"] == 2, seconds=60, what="both workers")
        yield stack


def rows(stack: Stack) -> list[Interaction]:
    store = Store.open(load_settings(data_dir=stack.data))
    found = store.recent(100_000)
    store.close()
    return found


def events(url: str, body: dict[str, Any]) -> Iterator[tuple[int, str, Any, float]]:
    """(id, event, data, time of arrival) of a stream."""
    with httpx.stream("POST", f"{url}/generate/stream", json=body, timeout=120) as response:
        assert response.status_code == 200
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"]), time.time()
                fields = {}


def texts(url: str, body: dict[str, Any]) -> list[str]:
    return [data["text"] for _, kind, data, _ in events(url, body) if kind == "token"]


def test_a_stream_is_the_answer_token_by_token(stack: Stack) -> None:
    whole = httpx.post(f"{stack.url}/generate", json=STORY, timeout=120).json()
    seen = list(events(stack.url, STORY))
    assert [number for number, *_ in seen] == list(range(1, len(seen) + 1))
    assert [kind for _, kind, *_ in seen[:2]] == ["queued", "started"]
    assert seen[-1][1] == "done"
    tokens = [(data["text"], at) for _, kind, data, at in seen if kind == "token"]
    assert "".join(text for text, _ in tokens) == whole["response"]
    assert seen[-1][2]["usage"] == whole["usage"] | {"cached_tokens": ANY}
    assert whole["usage"]["completion_tokens"] == STORY["max_tokens"]
    # One by one: not all at the end, and hardly ever two at once.
    assert len(tokens) > STORY["max_tokens"] * 0.6
    assert tokens[-1][1] - tokens[0][1] > 10 * (tokens[1][1] - tokens[0][1]) > 0


def test_a_seed_decides_the_text(stack: Stack) -> None:
    def text(seed: int, temperature: float) -> str:
        body = {**STORY, "seed": seed, "temperature": temperature, "max_tokens": 16}
        answer: str = httpx.post(f"{stack.url}/generate", json=body, timeout=120).json()["response"]
        return answer

    assert text(5, 1.0) == text(5, 1.0) != text(6, 1.0)
    assert text(5, 0) == text(6, 0)


@pytest.mark.parametrize(("begin", "length"), [(9, 3), (20, 9), (33, 21), (50, 1)])
def test_a_stop_string_never_shows(stack: Stack, begin: int, length: int) -> None:
    """Within a token, over several, over many."""
    body = {"prompt": "Once", "raw": True, "temperature": 0, "max_tokens": 30}
    free = httpx.post(f"{stack.url}/generate", json=body, timeout=120).json()
    stop = free["response"][begin : begin + length]
    assert len(stop) == length
    body["stop"] = stop
    stopped = httpx.post(f"{stack.url}/generate", json=body, timeout=120).json()
    assert stopped["response"] == free["response"].partition(stop)[0]
    assert stopped["finish_reason"] == "stop"
    assert "".join(texts(stack.url, body)) == stopped["response"]


@pytest.mark.parametrize(
    ("prompt", "beginning"), [("🙂🎉🚀" * 8, "🚀🚀"), ("日本語" * 6, "日本語")]
)
def test_multi_byte_text_streams_whole(stack: Stack, prompt: str, beginning: str) -> None:
    body = {"prompt": prompt, "raw": True, "temperature": 0, "max_tokens": 16}
    pieces = texts(stack.url, body)
    assert "".join(pieces).startswith(beginning)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_prompt_of_too_many_tokens_is_a_client_error(stack: Stack) -> None:
    answer = httpx.post(f"{stack.url}/generate", json={"prompt": "word " * 3000}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["code"] == "prompt_too_long"


async def test_two_hundred_at_once_are_two_hundred_rows(stack: Stack) -> None:
    before = {row.id for row in rows(stack)}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:

        async def ask(number: int) -> dict[str, Any]:
            body = {"prompt": f"Say {number}.", "max_tokens": 4, "seed": number}
            answer = await client.post(f"{stack.url}/generate", json=body)
            assert answer.status_code == 200, answer.text
            answered: dict[str, Any] = answer.json()
            return answered

        answers = await asyncio.gather(*(ask(number) for number in range(200)))
    received = {answer["id"]: answer["response"] for answer in answers}
    assert len(received) == 200
    fresh = [row for row in rows(stack) if row.id not in before]
    assert len(fresh) == 200
    assert {row.id: row.response for row in fresh} == received
    assert {row.prompt for row in fresh} == {f"Say {number}." for number in range(200)}


def test_the_api_needs_no_torch(tmp_path: Path, short_tmp: Path) -> None:
    """`pip install .[api]` into an environment of its own, as an API-only machine does it."""
    source = tmp_path / "source"  # a copy: pip builds inside the folder it is given
    left_out = shutil.ignore_patterns(".*", "data", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(Path(__file__).parents[2], source, ignore=left_out)
    environment = tmp_path / "api-only"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = str(environment / "bin" / "python")
    quiet = ["-q", "--disable-pip-version-check", "--no-warn-script-location"]
    subprocess.run(
        [python, "-m", "pip", "install", *quiet, "-c", "constraints.txt", ".[api]"],
        cwd=source,
        check=True,
        timeout=170,
    )
    installed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "fastapi==" in installed
    assert "torch==" not in installed
    assert "transformers==" not in installed
    stack = Stack(short_tmp, DATA_DIR=short_tmp / "api-data")
    with running_valkey(load_settings(data_dir=short_tmp / "api-data")):
        log = (tmp_path / "api.log").open("wb")
        api = subprocess.Popen(
            [str(environment / "bin" / "minivault"), "api"],
            cwd=tmp_path,
            env=stack.environment,
            stdout=log,
            stderr=log,
        )
        try:
            until(
                lambda: _status(stack.url, "/healthz") == 200,
                seconds=40,  # nothing there is compiled to bytecode yet
                what=f"the API (log: {log.name})",
            )
            assert _status(stack.url, "/readyz") == 503
            assert _status(stack.url, "/docs") == 200
        finally:
            api.kill()
            api.wait(timeout=10)
            log.close()


def _status(url: str, path: str) -> int:
    try:
        return httpx.get(url + path).status_code
    except httpx.TransportError:
        return 0


def test_prompts_are_counted_as_the_model_counts_them(stack: Stack) -> None:
    for asked in (
        {"prompt": "Wie heißt der Fuchs? 🦊"},
        {"prompt": "Once upon a time", "raw": True},
    ):
        counted = httpx.post(f"{stack.url}/tokenize", json=asked, timeout=30).json()
        body = {**asked, "max_tokens": 1}
        generated = httpx.post(f"{stack.url}/generate", json=body, timeout=60).json()
        assert counted["count"] == len(counted["tokens"]) == generated["usage"]["prompt_tokens"]
        body = {"tokens": counted["tokens"]}
        text = httpx.post(f"{stack.url}/detokenize", json=body, timeout=30).json()["text"]
        assert text == asked["prompt"] if "raw" in asked else asked["prompt"] in text
    turns = [{"role": "user", "content": "Once upon a time"}]
    as_turn = httpx.post(f"{stack.url}/tokenize", json={"messages": turns}).json()
    body = {"prompt": turns[0]["content"]}
    assert as_turn == httpx.post(f"{stack.url}/tokenize", json=body).json()
    beyond = httpx.post(f"{stack.url}/detokenize", json={"tokens": [1, 49_152]})
    assert (beyond.status_code, beyond.json()["code"]) == (400, "invalid_prompt")


def test_what_a_worker_has_computed_it_does_not_compute_again(stack: Stack) -> None:
    body = {**STORY, "prompt": "Tell me of foxes. " * 40, "max_tokens": 8}
    answers = [httpx.post(f"{stack.url}/generate", json=body, timeout=120).json() for _ in range(3)]
    assert len({answer["response"] for answer in answers}) == 1
    known = [answer["usage"]["cached_tokens"] for answer in answers]
    assert known[0] < 32  # what the template begins with may be known of others
    assert max(known) > 0.9 * answers[0]["usage"]["prompt_tokens"]  # two workers, three times
