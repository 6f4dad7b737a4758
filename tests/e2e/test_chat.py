"""Conversations with the real model, through deaths of everything."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import psutil
import pytest

from tests.support.poll import until
from tests.support.stack import MINIVAULT, Stack, running_stack
from tests.support.terminal import Terminal

ASKED = "Tell me a long story about a fox and a raven who live in the mountains."
FIELDS = {"temperature": 0, "max_tokens": 160}
OPTIONS = ("--temperature", "0", "--max-tokens", "160")


@pytest.fixture(scope="module")
def stack(short_tmp: Path) -> Iterator[Stack]:
    with running_stack(short_tmp / "chat") as stack:
        yield stack


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "minivault" / "chats"


def answer(stack: Stack, *turns: tuple[str, str], **fields: Any) -> httpx.Response:
    messages = [{"role": role, "content": content} for role, content in turns]
    body = {"messages": messages, "temperature": 0, "max_tokens": 40, **fields}
    return httpx.post(f"{stack.url}/generate", json=body, timeout=120)


def test_turns_and_a_system_prompt_reach_the_model(stack: Stack) -> None:
    name = answer(
        stack,
        ("user", "My name is Nils. What is the capital of England?"),
        ("assistant", "The capital of England is London."),
        ("user", "What is my name?"),
    )
    assert "Nils" in name.json()["response"]
    asked = ("user", "What are you?")
    plain = answer(stack, asked).json()
    system = answer(stack, ("system", "You are a pirate. You always say Arrr!"), asked).json()
    assert system["response"] != plain["response"]
    assert system["usage"]["prompt_tokens"] != plain["usage"]["prompt_tokens"]


def test_one_question_is_a_prompt(stack: Stack) -> None:
    """The template makes of both the same tokens, and so the same text."""
    one = answer(stack, ("user", "What is the capital of England?")).json()
    body = {"prompt": "What is the capital of England?", "temperature": 0, "max_tokens": 40}
    other = httpx.post(f"{stack.url}/generate", json=body, timeout=60).json()
    assert one["response"] == other["response"]
    assert one["usage"] == other["usage"] | {"cached_tokens": ANY}


def test_a_conversation_of_too_many_tokens_is_a_client_error(stack: Stack) -> None:
    refused = answer(stack, *[("user", "word " * 300), ("assistant", "yes")] * 5, ("user", "x"))
    assert (refused.status_code, refused.json()["code"]) == (400, "prompt_too_long")


def begin(stack: Stack) -> Terminal:
    terminal = Terminal(
        MINIVAULT, "chat", "--url", stack.url, "--name", "a", *OPTIONS, cwd=stack.folder
    )
    terminal.wait_for("> ", seconds=30)
    terminal.type(f"{ASKED}\r")
    return terminal


def is_underway(state: Path) -> bool:
    path = state / "a.json"
    return path.exists() and json.loads(path.read_bytes())["underway"] is not None


def said(state: Path) -> str:
    """Of the answer under way, as far as the chat has noted it."""
    return (
        json.loads((state / "a.json").read_bytes())["underway"]["text"]
        if is_underway(state)
        else ""
    )


def wait_for_more(state: Path) -> None:
    before = said(state)
    until(lambda: len(said(state)) > len(before), seconds=60, what="more of the answer")


def kill_chat(stack: Stack) -> None:
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(stack.folder) and "chat" in process.cmdline():
                process.kill()
        except psutil.Error:
            continue


def whole(stack: Stack) -> str:
    found: str = answer(stack, ("user", ASKED), **FIELDS).json()["response"]
    return found


def test_an_answer_goes_on_through_the_deaths_of_worker_and_api(stack: Stack, state: Path) -> None:
    expected = whole(stack)
    with begin(stack) as person:
        for role in ("worker", "api"):
            wait_for_more(state)
            stack.strike(role)
        until(lambda: not is_underway(state), seconds=120, what="the end of the answer")
        person.wait_for("> ", seconds=30)
        person.type("\x04")
        assert person.wait_for_end() == 0
    turns = json.loads((state / "a.json").read_bytes())["turns"]
    assert [turn["content"] for turn in turns] == [ASKED, expected]


def test_an_answer_survives_everything_at_once(short_tmp: Path, state: Path) -> None:
    """The chat, the supervisor, the API, the worker and Valkey: SIGKILL, and up again."""
    with running_stack(short_tmp / "all") as stack:
        expected = whole(stack)
        with begin(stack):
            wait_for_more(state)
            kill_chat(stack)
            stack.kill()
        told = said(state)
        assert 0 < len(told) < len(expected)
        stack.start()
        stack.wait_ready()
        again = subprocess.run(
            [MINIVAULT, "chat", "--url", stack.url, "--continue"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            cwd=stack.folder,
        )
    assert (again.returncode, again.stdout) == (0, expected + "\n")
    turns = json.loads((state / "a.json").read_bytes())["turns"]
    assert [turn["content"] for turn in turns] == [ASKED, expected]
