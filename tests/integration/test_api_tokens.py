"""POST /tokenize and /detokenize, answered by worker processes with a tokenizer of code points."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from shared import names, tokenizing
from shared.settings import Settings
from shared.tokenizing import Refusal, Tokenize
from tests.support import traps
from tests.support.api import running_api
from tests.support.jobs import MODEL
from tests.support.poll import until
from tests.support.scripted_worker import ScriptedWorker, words
from tests.support.workers import BROKEN_MODEL, Crew, crew


@pytest.fixture
def served(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": (MODEL, BROKEN_MODEL)})


@pytest.fixture
def workers(served: Settings) -> Iterator[Crew]:
    with crew(served, hurried=True) as made:
        made.start()
        yield made


@pytest.fixture
def url(served: Settings) -> Iterator[str]:
    with running_api(served) as url:
        yield url


@pytest.mark.usefixtures("workers")
def test_there_and_back(url: str, redis: Redis) -> None:
    text = "Wie groß ist 日本?"
    answer = httpx.post(f"{url}/tokenize", json={"prompt": text})
    assert answer.status_code == 200, answer.text
    tokens = [ord(character) for character in text]
    assert answer.json() == {"tokens": tokens, "count": len(text)}
    answer = httpx.post(f"{url}/detokenize", json={"tokens": tokens, "model": MODEL})
    assert (answer.status_code, answer.json()) == (200, {"text": text})
    for ids, said in (([], ""), ([97.0, 98], "ab")):
        assert httpx.post(f"{url}/detokenize", json={"tokens": ids}).json() == {"text": said}
    assert [key for key in redis.keys("minivault:*question*") if redis.ttl(key) < 0] == []
    assert [key for key in redis.keys("minivault:answer*") if redis.ttl(key) < 0] == []


@pytest.mark.usefixtures("workers")
def test_a_text_as_large_as_bodies_may_be(url: str, served: Settings) -> None:
    text = "a" * (served.max_body_bytes - 100)
    assert httpx.post(f"{url}/tokenize", json={"prompt": text}).json()["count"] == len(text)
    refused = httpx.post(f"{url}/tokenize", json={"prompt": text + "b" * 100})
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


REFUSED: list[tuple[str, dict[str, object], int, str]] = [
    ("tokenize", {}, 422, "invalid_request"),
    ("tokenize", {"prompt": ""}, 422, "invalid_request"),
    ("tokenize", {"prompt": "a\0b"}, 422, "invalid_request"),
    ("tokenize", {"prompt": 1}, 422, "invalid_request"),
    ("tokenize", {"prompt": "a", "temperature": 1}, 422, "invalid_request"),
    ("tokenize", {"messages": []}, 422, "invalid_request"),
    ("tokenize", {"messages": [{"role": "tool", "content": ""}]}, 422, "invalid_request"),
    (
        "tokenize",
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        422,
        "invalid_request",
    ),
    (
        "tokenize",
        {"raw": True, "messages": [{"role": "user", "content": "b"}]},
        422,
        "invalid_request",
    ),
    ("tokenize", {"prompt": "a", "add_special": False}, 422, "invalid_request"),
    ("tokenize", {"prompt": "a", "model": "other"}, 404, "unknown_model"),
    ("tokenize", {"prompt": "a", "model": BROKEN_MODEL}, 503, "model_unavailable"),
    (
        "tokenize",
        {"prompt": traps.CONFUSING_TO_TOKENIZE, "model": MODEL},
        502,
        "generation_failed",
    ),
    ("detokenize", {}, 422, "invalid_request"),
    ("detokenize", {"tokens": [-1]}, 422, "invalid_request"),
    ("detokenize", {"tokens": [2**31]}, 422, "invalid_request"),
    ("detokenize", {"tokens": ["1"]}, 422, "invalid_request"),
    ("detokenize", {"tokens": ["x"] * 200_000}, 422, "invalid_request"),
    ("detokenize", {"tokens": [1.5]}, 422, "invalid_request"),
    ("detokenize", {"tokens": [0x110000]}, 400, "invalid_prompt"),
    ("detokenize", {"tokens": [1], "model": "other"}, 404, "unknown_model"),
]


@pytest.mark.usefixtures("workers")
def test_refusals(url: str) -> None:
    with httpx.Client(base_url=url, timeout=20) as client:
        for path, body, status, code in REFUSED:
            answer = client.post(f"/{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), body
            assert client.post("/tokenize", json={"prompt": "a"}).status_code == 200
        answer = client.post("/tokenize", content=b"{")
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_without_a_worker_it_is_told_at_once(url: str) -> None:
    began = time.monotonic()
    answer = httpx.post(f"{url}/tokenize", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")
    assert answer.headers["Retry-After"]
    assert time.monotonic() - began < 2


def test_a_worker_that_does_not_answer(
    url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.tokenizers.TTL", 2)
    ScriptedWorker(redis, MODEL, words()).announce()  # lives, and answers nothing
    answer = httpx.post(f"{url}/tokenize", json={"prompt": "a"}, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")
    until(lambda: redis.keys("minivault:question*") == [], what="the question's end")


def test_clients_wait_in_bounded_numbers(url: str, redis: Redis) -> None:
    ScriptedWorker(redis, MODEL, words()).announce()
    with httpx.Client(timeout=20) as client, ThreadPoolExecutor(5) as threads:

        def ask() -> httpx.Response:
            return client.post(f"{url}/tokenize", json={"prompt": "a"})

        asked = [threads.submit(ask) for _ in range(5)]
        until(lambda: any(each.done() for each in asked), what="a refusal")
        refused = next(each.result() for each in asked if each.done())
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_in_flight")
        until(lambda: redis.llen(names.questions(MODEL)) == 4, what="the others' questions")
        for raw in redis.lrange(names.questions(MODEL), 0, -1):
            answer = tokenizing.encode(Refusal("prompt_too_long", "No."))
            redis.rpush(names.answer(raw.decode()), answer)
        codes = [each.result().status_code for each in asked]
        assert sorted(codes) == [400] * 4 + [429]
        redis.delete(names.questions(MODEL))
        redis.rpush(names.questions(MODEL), *range(64))
        full = client.post(f"{url}/tokenize", json={"prompt": "a"})
        assert (full.status_code, full.json()["code"]) == (503, "queue_full")


@pytest.mark.usefixtures("workers")
def test_what_nobody_understands_or_waits_for_is_dropped(url: str, redis: Redis) -> None:
    for name, raw in (("gone", None), ("odd", b"{}"), ("binary", b"\xff")):
        if raw is not None:
            redis.set(names.question(name), raw, ex=60)
        redis.rpush(names.questions(MODEL), name)
    assert httpx.post(f"{url}/tokenize", json={"prompt": "abc"}).json()["count"] == 3
    assert redis.keys("minivault:question:*") == redis.keys("minivault:answer:*") == []
    assert redis.llen(names.questions(MODEL)) == 0


def test_any_worker_that_lives_answers(url: str, workers: Crew, redis: Redis) -> None:
    first, second = workers.start(2)
    first.kill()
    redis.set(names.question("it"), tokenizing.encode(Tokenize(model=MODEL, prompt="abc")), ex=60)
    redis.rpush(names.questions(MODEL), "it")
    found = redis.blpop([names.answer("it")], timeout=10)
    assert found is not None
    assert json.loads(found[1]) == {"type": "tokens", "tokens": [97, 98, 99]}
    second.kill()
    assert httpx.post(f"{url}/tokenize", json={"prompt": "abc"}).json()["count"] == 3
