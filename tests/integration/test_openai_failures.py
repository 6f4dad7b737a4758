"""What goes wrong under `/v1`, and how its clients hear of it."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

from shared import names
from shared.events import AnyEvent, Cancelled, Started, is_terminal
from shared.job import GenerationRequest
from shared.settings import Settings
from tests.support.api import Sse, api_process, read_sse, running_api
from tests.support.jobs import ended, log_of
from tests.support.openai_sdk import sdk
from tests.support.poll import until
from tests.support.scripted_worker import (
    ScriptedWorker,
    cancelled,
    failing,
    scripted_worker,
    words,
)
from tests.support.workers import crew

MODEL = "smollm2-135m"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": HELLO}
WORDS = ("The", " capital", " of\n", "França 🗼", "", "\u2028", " is\x85“Paris”.\r\n")


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words(*WORDS)) as worker:
        yield worker


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


def frames(response: httpx.Response) -> Iterator[tuple[int | None, Any]]:
    """Number and data of each frame of OpenAI's streams; `[DONE]` is a text."""
    number = None
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            yield number, "[DONE]" if value == "[DONE]" else json.loads(value)
            number = None


def stream(url: str, body: dict[str, Any], path: str = "chat/completions") -> list[Any]:
    with httpx.stream("POST", f"{url}/v1/{path}", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return list(frames(response))


def content(data: Any) -> str:
    if data == "[DONE]" or not data["choices"]:
        return ""
    text: str = data["choices"][0]["delta"].get("content") or ""
    return text


def test_chunks_are_one_line_each_and_numbered_as_the_jobs_events(
    url: str, worker: ScriptedWorker
) -> None:
    found = stream(url, CHAT)
    assert "".join(content(data) for _, data in found) == "".join(WORDS)
    # Behind `queued`; what says nothing has no chunk; the last event says both that and why.
    assert [number for number, _ in found] == [2, 3, 4, 5, 6, 8, 9, 10, None]
    assert found[-1][1] == "[DONE]"


def test_chunks_of_several_jobs_have_no_numbers(url: str, worker: ScriptedWorker) -> None:
    found = stream(url, {**CHAT, "n": 2})
    assert {number for number, _ in found} == {None}
    assert {data["choices"][0]["index"] for _, data in found[:-1]} == {0, 1}


def test_obfuscated_chunks_tell_no_sizes(url: str, worker: ScriptedWorker) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_obfuscation": True}}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    assert len(lines) == 8
    assert all("obfuscation" in json.loads(line.removeprefix("data: ")) for line in lines)
    sizes = {len(line.encode()) for line in lines}
    assert len({size % 64 for size in sizes}) == 1
    plain = {len(json.dumps(data)) for _, data in stream(url, CHAT)[:-1]}
    assert len(sizes) < len(plain)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "failure",
    [
        ("prompt_too_long", openai.BadRequestError, "context_length_exceeded", "messages"),
        ("no_chat_template", openai.BadRequestError, "no_chat_template", "messages"),
        ("generation_failed", openai.InternalServerError, "generation_failed", None),
        ("some_new_code", openai.InternalServerError, "generation_failed", None),
        ("model_unavailable", openai.InternalServerError, "model_unavailable", None),
    ],
)
def test_a_job_that_fails_at_once(
    url: str,
    worker: ScriptedWorker,
    failure: tuple[str, type[openai.APIStatusError], str, str | None],
    streamed: bool,  # noqa: FBT001
) -> None:
    code, error, shown, param = failure
    worker.script = lambda request: (
        event for event in failing(code)(request) if not isinstance(event, Started)
    )
    with sdk(url) as client, pytest.raises(error) as caught:
        client.chat.completions.create(**CHAT, stream=streamed)
    assert (caught.value.code, caught.value.param) == (shown, param)
    assert "It went wrong in the script." in caught.value.message
    assert caught.value.response.headers["x-job-id"] == worker.seen[0].id


@pytest.mark.parametrize("n", [1, 2])
def test_a_job_that_fails_in_mid_stream(url: str, worker: ScriptedWorker, n: int) -> None:
    worker.script = failing("worker_lost", "half", " an")
    said: list[str] = []
    with sdk(url) as client:
        chunks = client.chat.completions.create(**CHAT, n=n, stream=True)
        with pytest.raises(openai.APIError) as caught:
            said.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(said).startswith("half")
    assert (caught.value.code, caught.value.type) == ("worker_lost", "server_error")
    assert stream(url, CHAT)[-1][1].keys() == {"error"}


def test_a_job_that_fails_behind_its_first_words(url: str, worker: ScriptedWorker) -> None:
    worker.script = failing("worker_lost", "half", " an")
    with sdk(url) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**CHAT)
    assert caught.value.status_code == 502


def test_a_cancelled_job_is_an_error_that_is_not_tried_again(
    url: str, worker: ScriptedWorker
) -> None:
    worker.script = cancelled("half")
    with sdk(url, max_retries=2) as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**CHAT)
    assert (caught.value.status_code, caught.value.code) == (410, "cancelled")
    assert len(worker.seen) == 1
    assert stream(url, CHAT)[-1][1]["error"]["code"] == "cancelled"


def test_a_stream_that_broke_off_goes_on_as_events(url: str, worker: ScriptedWorker) -> None:
    go_on = threading.Event()

    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        for number, event in enumerate(words(*WORDS)(request)):
            if number == 4:
                go_on.wait(20)
            yield event

    worker.script = script
    heard, last = "", None
    body = {**CHAT, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        job_id = response.headers["x-job-id"]
        for number, data in frames(response):
            heard += content(data)
            last = number
            if heard:
                break
    go_on.set()
    headers = {"Last-Event-ID": str(last)}
    with httpx.stream("GET", f"{url}/jobs/{job_id}/events", headers=headers) as response:
        rest: list[Sse] = list(read_sse(response))
    assert rest[-1].event == "done"
    assert heard + "".join(event.data.get("text", "") for event in rest) == "".join(WORDS)


@pytest.mark.parametrize("streamed", [False, True])
def test_whoever_leaves_for_good_leaves_no_job_behind(
    settings: Settings,
    redis: Redis,
    streamed: bool,  # noqa: FBT001
) -> None:
    with (
        crew(settings, step_seconds=0.02, hurried=True) as workers,
        running_api(settings, disconnect_grace=0.5) as url,
    ):
        workers.start()
        body = {**CHAT, "n": 3, "stream": streamed}
        if streamed:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                assert next(response.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/chat/completions", json=body, timeout=1)
        jobs = [job.decode() for job in redis.zrange(names.JOBS, 0, -1)]  # type: ignore[union-attr]
        assert len(jobs) == 3
        assert all(isinstance(ended(redis, job)[-1], Cancelled) for job in jobs)


@pytest.mark.parametrize(
    ("limit", "error", "code"),
    [
        ("max_queued", openai.InternalServerError, "queue_full"),
        ("max_in_flight", openai.RateLimitError, "too_many_in_flight"),
    ],
)
def test_choices_are_admitted_together_or_not_at_all(
    settings: Settings, redis: Redis, limit: str, error: type[openai.APIStatusError], code: str
) -> None:
    with running_api(settings, **{limit: 2}) as url:
        with sdk(url) as client, pytest.raises(error) as caught:
            client.chat.completions.create(**CHAT, n=3)
        assert caught.value.code == code
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert redis.zcard(names.JOBS) == 0
        with scripted_worker(redis, MODEL, words("x")), sdk(url) as client:
            assert len(client.chat.completions.create(**CHAT, n=2).choices) == 2


def test_what_was_submitted_before_a_refusal_is_withdrawn(
    url: str, redis: Redis, settings: Settings
) -> None:
    keys = [names.idempotency("127.0.0.1", key) for key in ("mine", "mine 1")]
    redis.hset(keys[1], mapping={"job": "job-another", "fingerprint": "another"})
    headers = {"Idempotency-Key": "mine"}
    answer = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "n": 2}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert not redis.exists(keys[0])
    (job,) = redis.zrange(names.JOBS, 0, -1)  # type: ignore[misc]
    assert redis.sismember(names.CANCELS, job)


def test_the_rate_limit(settings: Settings, worker: ScriptedWorker) -> None:
    with running_api(settings, rate_limit="1/minute") as url, sdk(url) as client:
        raw = client.completions.with_raw_response.create(model=MODEL, prompt="x")
        assert raw.headers["ratelimit"] == '"default";r=0;t=60'
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model=MODEL, prompt="x")
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_stream_that_waits_is_not_silent(settings: Settings, redis: Redis) -> None:
    with running_api(settings, ping_seconds=0.2) as url:
        body = {**CHAT, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            assert next(line for line in lines if line).startswith(": ping")
            with scripted_worker(redis, MODEL, words("at", " last")):
                rest = [line for line in lines if line.startswith("data")]
    assert [content(json.loads(line[6:])) for line in rest[:-1]] == ["", "at", " last", ""]
    assert rest[-1] == "data: [DONE]"


def test_the_sdk_reads_over_pings(settings: Settings, redis: Redis) -> None:
    """Its decoder takes a comment of its own behind an `id:` for an event without data."""
    with (
        running_api(settings, ping_seconds=0.1) as url,
        scripted_worker(redis, MODEL, words("one", " two", " three", pause=0.4)),
        sdk(url) as client,
    ):
        raw = client.chat.completions.with_raw_response.create(**CHAT, stream=True)
        body = b"".join(raw.http_response.iter_bytes())
        chunks = client.chat.completions.create(**CHAT, stream=True)
        said = [chunk.choices[0].delta.content for chunk in chunks]
    assert body.count(b"\n: ping\n") >= 3
    assert said == ["", "one", " two", " three", None]


def test_a_process_that_stops_says_where_the_job_goes_on(
    settings: Settings, worker: ScriptedWorker, redis: Redis, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        for event in words("one", " two")(request):
            if is_terminal(event):
                go_on.wait(30)
            yield event

    worker.script = script
    with (
        api_process(settings, tmp_path / "api.log", SHUTDOWN_GRACE="2") as (process, url),
        httpx.stream(
            "POST", f"{url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=30
        ) as response,
    ):
        found = []
        for _, data in frames(response):
            found.append(data)
            if len(found) == 1:
                process.terminate()
        go_on.set()
        job_id = response.headers["x-job-id"]
    error = found[-1]["error"]
    assert (error["code"], error["type"]) == ("stopping", "server_error")
    assert f"GET /jobs/{job_id}/events" in error["message"]
    assert "".join(content(data) for data in found[:-1]) == "one two"
    until(lambda: is_terminal(log_of(redis, job_id)[-1]), what="the job's end")


LONG = b"x" * 2_000_000
Send = Callable[[str], httpx.Response]


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        (lambda url: httpx.get(f"{url}/v1"), 404, "not_found"),
        (lambda url: httpx.post(f"{url}/v1/embeddings", json={}), 404, "not_found"),
        (lambda url: httpx.get(f"{url}/v1/chat/completions"), 405, "method_not_allowed"),
        (lambda url: httpx.delete(f"{url}/v1/models/x"), 405, "method_not_allowed"),
        (
            lambda url: httpx.post(f"{url}/v1/completions", content=b"{}"),
            415,
            "unsupported_media_type",
        ),
        (lambda url: httpx.post(f"{url}/v1/completions", content=LONG), 413, "body_too_large"),
        (lambda url: httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}), 421, None),
        (lambda url: httpx.get(f"{url}/v1/models", headers={"X": "y" * 40_000}), 431, None),
    ],
)
def test_every_error_has_openais_shape(url: str, send: Send, status: int, code: str | None) -> None:
    answer = send(url)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert code in {None, error["code"]}
    assert ("allow" in answer.headers) == (status == 405)


def test_an_outage_is_a_503_in_the_same_shape(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "unix:///nowhere.sock"})
    with running_api(away) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["code"] == "redis_unavailable"


def test_the_usage_counts_a_prompt_once(url: str, worker: ScriptedWorker) -> None:
    answer = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "n": 3}).json()
    assert answer["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": 3 * len(WORDS),
        "total_tokens": 3 * len(WORDS),
        "prompt_tokens_details": {"cached_tokens": 0},
    }
