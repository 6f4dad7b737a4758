"""Generation over a real socket, with a scripted worker behind a real Valkey."""

import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from shared.settings import Settings
from tests.support.api import read_sse, running_api, stream, text_of
from tests.support.scripted_worker import ScriptedWorker, cancelled, failing, scripted_worker, words

BODY = {"prompt": "Say something."}
WORDS = ("The", " capital", " of\n", "França 🗼", "", "\u2028", " is “Paris”.\r\n")


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words(*WORDS)) as worker:
        yield worker


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


def test_a_stream_is_the_whole_log_in_order(url: str, worker: ScriptedWorker) -> None:
    events = stream(url, BODY)
    names = ["queued", "started", *["token"] * len(WORDS), "done"]
    assert [event.event for event in events] == names
    assert [event.id for event in events] == list(range(1, len(names) + 1))
    assert events[0].data == {"id": worker.seen[0].id, "model": "smollm2-135m", "position": 0}
    assert events[2].data == {"text": "The"}
    assert events[-1].data == {
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21},
        "timings": {"queue": 0.001, "prefill": 0.002, "decode": 0.003, "total": 0.006},
    }
