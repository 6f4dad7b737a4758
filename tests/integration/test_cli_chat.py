"""`minivault chat`, against the real API and a worker that says what the test wants."""

import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from cli.client import Client
from shared import names
from shared.events import AnyEvent, Cancelled, Done, Failed, FinishReason, Token
from shared.job import GenerationRequest
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.poll import until
from tests.support.scripted_worker import TIMINGS, USAGE, ScriptedWorker, scripted_worker
from tests.support.stack import MINIVAULT
from tests.support.terminal import Terminal

DONE = Done(seq=0, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS)
WORDS = 40
COUNT = "".join(f"{number} " for number in range(WORDS))


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with running_api(session_settings) as url:
        yield url


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    """Repeats what it was told last; counts slowly if that was "count", until it is cancelled."""

    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        if request.messages[-1].content != "count":
            yield Token(seq=0, ids=(1,), text=f"You said {request.messages[-1].content}.")
        else:
            for word in COUNT.split():
                if redis.sismember(names.CANCELS, request.id):
                    yield Cancelled(seq=0, usage=USAGE, timings=TIMINGS)
                    return
                yield Token(seq=0, ids=(1,), text=f"{word} ")
                yield 0.05
        yield DONE

    with scripted_worker(redis, settings.default_model, script) as worker:
        yield worker


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the conversations of this test are kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "minivault" / "chats"


@pytest.fixture
def chat(url: str, state: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`minivault chat`, piped."""

    def run(lines: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [MINIVAULT, "chat", "--url", url, *options],
            input=lines,
            capture_output=True,
            text=True,
            timeout=30,
        )

    return run


@pytest.fixture
def terminal(url: str, state: Path) -> Callable[..., Terminal]:
    return lambda *options: Terminal(MINIVAULT, "chat", "--url", url, *options)


def kept(state: Path, name: str) -> Any:
    return json.loads((state / f"{name}.json").read_bytes())


def told(request: GenerationRequest) -> list[str]:
    return [f"{turn.role}: {turn.content}" for turn in request.messages]


def test_each_line_is_a_turn(chat, worker: ScriptedWorker, state: Path) -> None:
    ended = chat("hello\n\nagain", "--name", "a", "--system", "Be kind.", "--temperature", "0")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "You said hello.\nYou said again.\n"
    assert [told(request) for request in worker.seen] == [
        ["system: Be kind.", "user: hello"],
        [
            "system: Be kind.",
            "user: hello",
            "assistant: You said hello.",
            "user: again",
        ],
    ]
    assert {request.params.temperature for request in worker.seen} == {0}
    assert all(request.background for request in worker.seen)
    assert stat.S_IMODE((state / "a.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert kept(state, "a")["underway"] is None


def test_it_goes_on_another_day(chat, worker: ScriptedWorker, state: Path) -> None:
    chat("one", "--name", "a", "--max-tokens", "9")
    chat("two", "--name", "b")
    assert chat("three", "--continue").stdout == "You said three.\n"
    assert chat("four", "--name", "a", "--continue").stdout == "You said four.\n"
    assert [turn["content"] for turn in kept(state, "b")["turns"]][::2] == ["two", "three"]
    assert told(worker.seen[-1])[0] == "user: one"
    assert worker.seen[-1].params.max_tokens == 9


def test_commands(terminal, worker: ScriptedWorker, tmp_path: Path) -> None:
    with terminal() as person:
        person.wait_for("> ")
        for typed, shown in [
            ("hello", "You said hello."),
            ("/system Be kind.", "(system prompt set)"),
            ("/model nope", "(model: nope)"),
            ("hello?", "There is no such model here."),
            ("/model smollm2-135m", "(model: smollm2-135m)"),
            ("//etc", "You said /etc."),
            (f"/save {tmp_path}/said.txt", "(written to"),
            ("/save /nowhere/said.txt", "can't be written"),
            ("/save", "can't be written"),
            ("/reset", "(forgotten)"),
            ("bye", "You said bye."),
            ("/hlep", "There is no /hlep."),
            ("/help", "Ctrl-D does too"),
        ]:
            person.type(f"{typed}\r")
            person.wait_for(shown)
            person.wait_for("> ")
        person.type("\x04")
        assert person.wait_for_end() == 0
    assert told(worker.seen[-1]) == ["system: Be kind.", "user: bye"]
    assert (tmp_path / "said.txt").read_text() == (
        "system: Be kind.\n\nuser: hello\n\nassistant: You said hello.\n\n"
        "user: /etc\n\nassistant: You said /etc.\n"
    )


def test_ctrl_c_ends_the_answer_and_not_the_chat(
    terminal, worker: ScriptedWorker, state: Path, url: str
) -> None:
    with terminal("--name", "a") as person:
        person.wait_for("> ")
        person.type("\x03")
        person.wait_for("> ")
        person.type("count\r")
        person.wait_for("3 4 ")
        person.type("\x03")
        person.wait_for("(stopped)")
        person.wait_for("> ")
        person.type("hello\r")
        person.wait_for("You said hello.")
        person.wait_for("> ")
        person.type("/quit\r")
        assert person.wait_for_end() == 0
    turns = [turn["content"] for turn in kept(state, "a")["turns"]]
    assert turns[0] == "count"
    assert COUNT.startswith(turns[1])
    assert "3 4 " in turns[1] != COUNT
    with Client(url) as client:
        assert client.job(worker.seen[0].id).status == "cancelled"


def test_an_answer_that_nobody_follows_any_more_is_picked_up_in_mid_sentence(
    terminal, chat, worker: ScriptedWorker, state: Path
) -> None:
    with terminal("--name", "a") as person:
        person.wait_for("> ")
        person.type("count\r")
        person.wait_for("3 4 ")
        kill_chats(state)
    underway = kept(state, "a")["underway"]
    assert underway["job_id"] == worker.seen[0].id
    assert COUNT.startswith(underway["text"])
    assert underway["text"] != COUNT
    ended = chat("hello", "--continue")
    assert ended.stdout == f"{COUNT}\nYou said hello.\n"
    turns = [turn["content"] for turn in kept(state, "a")["turns"]]
    assert turns == ["count", COUNT, "hello", "You said hello."]
    assert len(worker.seen) == 2


def test_it_is_shown_where_it_was_left(terminal, worker: ScriptedWorker, state: Path) -> None:
    with terminal("--name", "a") as person:
        person.wait_for("> ")
        person.type("count\r")
        person.wait_for("3 4 ")
        kill_chats(state)
    with terminal("--continue") as person:
        person.wait_for("> count")
        person.wait_for(COUNT)
        person.wait_for("> ")


def test_a_question_whose_answer_was_lost_is_not_asked_twice(
    chat, worker: ScriptedWorker, state: Path, url: str
) -> None:
    """As one that is killed between its submission and the note of it leaves it."""
    state.mkdir(parents=True)
    left = {"turns": [{"role": "user", "content": "hello"}], "underway": {"key": "k1"}}
    (state / "a.json").write_text(json.dumps(left))
    with Client(url) as client:
        job = client.submit(messages=left["turns"], idempotency_key="k1")
    assert chat("", "--continue").stdout == "You said hello.\n"
    assert [request.id for request in worker.seen] == [job.id]


def test_an_answer_that_has_expired_is_kept_as_far_as_it_came(
    chat, worker: ScriptedWorker, state: Path
) -> None:
    state.mkdir(parents=True)
    underway = {"key": "k1", "job_id": f"job-{'0' * 32}", "seq": 3, "text": "As far"}
    left = {"turns": [{"role": "user", "content": "hello"}], "underway": underway}
    (state / "a.json").write_text(json.dumps(left))
    ended = chat("so", "--continue")
    assert ended.stdout == "As far\nYou said so.\n"
    assert "not there any more" in ended.stderr
    assert told(worker.seen[0])[1] == "assistant: As far"


def test_what_is_too_long_for_the_model_is_told_without_its_beginning(
    chat, worker: ScriptedWorker, state: Path
) -> None:
    plain = worker.script

    def short(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        if len(request.messages) > 4:
            yield Failed(
                seq=0, code="prompt_too_long", message="Too long.", usage=USAGE, timings=TIMINGS
            )
        else:
            yield from plain(request)

    worker.script = short
    ended = chat("one\ntwo\nthree\nfour\n", "--name", "a", "--system", "Be kind.")
    assert ended.returncode == 0
    assert ended.stdout.endswith("You said three.\nYou said four.\n")
    assert ended.stderr.count("beginning is left out") == 2
    assert told(worker.seen[-1]) == [
        *("system: Be kind.", "user: three", "assistant: You said three.", "user: four")
    ]
    assert len(kept(state, "a")["turns"]) == 8


def test_a_question_that_fails_is_not_kept(
    chat, terminal, worker: ScriptedWorker, state: Path
) -> None:
    def script(_: GenerationRequest) -> Iterator[AnyEvent | float]:
        yield Failed(
            seq=0, code="prompt_too_long", message="Far too long.", usage=USAGE, timings=TIMINGS
        )

    worker.script = script
    ended = chat("hello\nmore\n", "--name", "a")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "Far too long.\n")
    assert kept(state, "a")["turns"] == []
    with terminal("--continue") as person:
        person.wait_for("> ")
        person.type("hello\r")
        person.wait_for("Far too long.")
        person.wait_for("> ")


def test_a_script_is_told_that_nobody_is_there_and_its_question_stays(
    chat, worker: ScriptedWorker, state: Path
) -> None:
    ended = chat("hello", "--name", "a", "--url", "http://127.0.0.1:9")
    assert (ended.returncode, ended.stdout) == (75, "")
    assert "No service answers" in ended.stderr
    assert chat("", "--name", "a", "--continue").stdout == "You said hello.\n"


def test_a_person_sees_that_nobody_is_there_and_can_leave(terminal, state: Path) -> None:
    with terminal("--url", "http://127.0.0.1:9") as person:
        person.wait_for("> ")
        person.type("hello\r")
        person.wait_for("No service answers")
        person.type("\x03")
        person.wait_for("(stopped)")
        person.type("\x04")
        assert person.wait_for_end() == 0


def test_one_conversation_is_open_once(terminal, chat, state: Path) -> None:
    with terminal("--name", "a") as person:
        person.wait_for("> ")
        ended = chat("x", "--name", "a", "--continue")
    assert (ended.returncode, ended.stderr) == (1, "Another `minivault chat` has a open.\n")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--continue",), "no conversation to go on with"),
        (("--continue", "--name", "b"), "There is no conversation b."),
        (("--name", "../b"), "is no name"),
        (("--name", "a"), "There is a conversation a."),
        (("--name", "broken", "--continue"), "can't be read"),
    ],
)
def test_what_is_not_there_or_there_already_is_one_line(
    chat, state: Path, options: tuple[str, ...], reason: str
) -> None:
    if "--name" in options:
        state.mkdir(parents=True)
        (state / "a.json").write_text("{}")
        (state / "broken.json").write_text('{"turns": 5}')
    ended = chat("x", *options)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_what_is_no_text_is_not_sent(state: Path, url: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:surrogateescape"}
    ended = subprocess.run(
        [MINIVAULT, "chat", "--url", url], input=b"\xff\n", capture_output=True, env=environment
    )
    assert (ended.returncode, ended.stderr) == (0, b"That is no valid UTF-8.\n")


def kill_chats(state: Path) -> None:
    """SIGKILL, once what they have shown is saved."""

    def has_saved() -> bool:
        return all(
            json.loads(path.read_bytes())["underway"]["text"] for path in state.glob("*.json")
        )

    until(has_saved, what="some of the answer in the file")
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(state.parent.parent) and "chat" in process.cmdline():
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
