"""The short way of a token, through a real server's socket."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from api.connection import Connection
from api.shortcut import Make, Written
from shared.events import Token
from shared.settings import Settings
from tests.support.api import running_api, stream, text_of
from tests.support.scripted_worker import ScriptedWorker, scripted_worker, words

BODY = {"prompt": "Say something."}
CHAT = {"model": "smollm2-135m", "stream": True, "messages": [{"role": "user", "content": "Hi."}]}
WORDS = ("The", " capital", "", "\u2028", " is 🗼.\r\n")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the tokens that took it."""
    taken: list[int] = []
    write = Connection._write

    def watched(self: Connection, make: Make, token: Token) -> Written:
        if (written := write(self, make, token)) is not Written.NOT_NOW:
            taken.append(token.seq)
        return written

    monkeypatch.setattr(Connection, "_write", watched)
    return taken


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words(*WORDS, pause=0.05)) as worker:
        yield worker


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


def test_tokens_that_are_waited_for_take_it(
    url: str, worker: ScriptedWorker, short: list[int]
) -> None:
    events = stream(url, BODY)
    assert [event.id for event in events] == list(range(1, len(WORDS) + 4))
    assert text_of(events) == "".join(WORDS)
    assert short[-3:] == [5, 6, 7]


def test_what_tells_an_openai_client_nothing_is_no_chunk(
    url: str, worker: ScriptedWorker, short: list[int]
) -> None:
    """One without a byte would end the transfer."""
    answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT)
    *chunks, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]"
    deltas = [json.loads(chunk.partition("data: ")[2])["choices"][0]["delta"] for chunk in chunks]
    said = [delta["content"] for delta in deltas if delta.get("content")]
    assert said == [text for text in WORDS if text]
    assert 5 in short


def test_what_can_not_be_made_a_piece_fails_its_own_stream_alone(
    url: str, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> Written:
        raise ValueError

    monkeypatch.setattr(Connection, "_write", stumble)
    assert text_of(stream(url, BODY)) == "".join(WORDS)  # by the other way


def test_a_client_of_http_1_0_gets_no_chunks(
    url: str, worker: ScriptedWorker, short: list[int]
) -> None:
    at, body = urlsplit(url), b'{"prompt": "Say something."}'
    assert at.hostname is not None
    with socket.create_connection((at.hostname, at.port or 80), timeout=10) as client:
        client.sendall(
            b"POST /generate/stream HTTP/1.0\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (at.netloc.encode(), len(body), body)
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.count(b"event: token") == len(WORDS)
    assert answer.endswith(b"\r\n\r\n")
