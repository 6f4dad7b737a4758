"""Generation over a real socket, with a scripted worker behind a real Valkey."""

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from api import connection
from shared import names
from shared.events import AnyEvent, Done, FinishReason, Token, Usage, encode, is_terminal
from shared.job import GenerationRequest
from shared.settings import Settings
from tests.support.api import read_sse, running_api, stream, text_of
from tests.support.poll import until, until_async
from tests.support.scripted_worker import (
    TIMINGS,
    ScriptedWorker,
    cancelled,
    failing,
    scripted_worker,
    words,
)

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
    events = stream(url, BODY, **{"X-Request-ID": "mine"})
    kinds = ["queued", "started", *["token"] * len(WORDS), "done"]
    assert [event.event for event in events] == kinds
    assert [event.id for event in events] == list(range(1, len(kinds) + 1))
    assert events[0].data == {
        "id": worker.seen[0].id,
        "model": "smollm2-135m",
        "position": 0,
        "request_id": "mine",
    }
    assert events[2].data == {"text": "The"}
    assert events[-1].data == {
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 14,
            "completion_tokens": 7,
            "cached_tokens": 0,
            "total_tokens": 21,
        },
        "timings": {"queue": 0.001, "prefill": 0.002, "decode": 0.003, "total": 0.006},
    }


def test_a_stream_is_not_buffered_on_its_way(url: str, worker: ScriptedWorker) -> None:
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-store"
        response.read()


def test_every_way_of_asking_gives_the_same_text(url: str, worker: ScriptedWorker) -> None:
    body = {**BODY, "echo": True}
    expected = BODY["prompt"] + "".join(WORDS)
    whole = httpx.post(f"{url}/generate", json=body)
    plain = httpx.post(f"{url}/generate/stream", json=body, headers={"Accept": "text/plain"})
    assert whole.json()["response"] == expected
    assert text_of(stream(url, body)) == expected
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert plain.headers["x-accel-buffering"] == "no"
    assert plain.content.decode() == expected


def test_the_whole_response_is_described(url: str, worker: ScriptedWorker) -> None:
    response = httpx.post(f"{url}/generate", json=BODY)
    assert response.status_code == 200
    assert response.json() == {
        "id": worker.seen[0].id,
        "model": "smollm2-135m",
        "response": "".join(WORDS),
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 14,
            "completion_tokens": 7,
            "cached_tokens": 0,
            "total_tokens": 21,
        },
        "timings": {"queue": 0.001, "prefill": 0.002, "decode": 0.003, "total": 0.006},
    }


@pytest.mark.parametrize(
    ("accept", "token", "end"),
    [
        (b"text/event-stream", b"event: token", b"event: done"),
        (b"text/plain", b"word", b"0\r\n\r\n"),
    ],
)
def test_tokens_arrive_one_by_one_over_a_raw_socket(
    url: str, worker: ScriptedWorker, accept: bytes, token: bytes, end: bytes
) -> None:
    pause = 0.08
    worker.script = words(*["word"] * 4, pause=pause)
    address = urlsplit(url)
    arrivals: list[float] = []
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        body = b'{"prompt": "x"}'
        raw.sendall(
            b"POST /generate/stream HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n"
            b"Accept: %s\r\n\r\n%s" % (len(body), accept, body)
        )
        heard = b""
        while end not in heard:
            part = raw.recv(4096)
            heard += part
            arrivals += [time.monotonic()] * part.count(token)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(arrivals) == 4
    assert all(gap > pause / 2 for gap in gaps), gaps


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("prompt_too_long", 400),
        ("unknown_model", 404),
        ("generation_failed", 502),
        ("some_new_code", 502),
        ("worker_lost", 502),
        ("expired", 503),
        ("model_unavailable", 503),
    ],
)
def test_a_failed_job_is_a_problem_document(
    url: str, worker: ScriptedWorker, code: str, status: int
) -> None:
    worker.script = failing(code)
    expected = "generation_failed" if code == "some_new_code" else code
    plain = {"Accept": "text/plain"}
    for response in (
        httpx.post(f"{url}/generate", json=BODY),
        httpx.post(f"{url}/generate/stream", json=BODY, headers=plain),
    ):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == expected
        assert response.json()["detail"] == "It went wrong in the script."


def test_a_failed_stream_ends_in_error(url: str, worker: ScriptedWorker) -> None:
    worker.script = failing("generation_failed", "Hal")
    last = stream(url, BODY)[-1]
    assert (last.event, last.id) == ("error", 4)
    assert last.data == {
        "code": "generation_failed",
        "message": "It went wrong in the script.",
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "cached_tokens": 0,
            "total_tokens": 2,
        },
        "timings": {"queue": 0.001, "prefill": 0.002, "decode": 0.003, "total": 0.006},
    }


def test_plain_text_that_fails_midway_is_not_taken_for_complete(
    url: str, worker: ScriptedWorker
) -> None:
    worker.script = failing("generation_failed", "Hal")
    headers = {"Accept": "text/plain"}
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY, headers=headers) as response:
        parts = response.iter_bytes()
        assert next(parts) == b"Hal"
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)


def test_a_cancelled_job_returns_what_it_has(url: str, worker: ScriptedWorker) -> None:
    worker.script = cancelled("Once", " upon")
    response = httpx.post(f"{url}/generate", json=BODY).json()
    assert response["response"] == "Once upon"
    assert response["finish_reason"] == "cancelled"
    expected = {
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "cached_tokens": 0,
            "total_tokens": 3,
        },
        "timings": {"queue": 0.001, "prefill": 0.002, "decode": 0.003, "total": 0.006},
    }
    assert {name: response[name] for name in expected} == expected
    assert stream(url, BODY)[-1].data == expected


@pytest.mark.parametrize("accept", ["application/json", "text/html", "text/plain;q=0"])
def test_a_stream_that_nobody_accepts_is_refused(
    url: str, worker: ScriptedWorker, accept: str
) -> None:
    response = httpx.post(f"{url}/generate/stream", json=BODY, headers={"Accept": accept})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert worker.seen == []


def test_what_the_client_asks_for_reaches_the_worker(url: str, worker: ScriptedWorker) -> None:
    asked = {
        "prompt": "é\u0001🗼",
        "model": "smollm2-135m",
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "seed": 2**53 - 1,
        "stop": ["\n", "END"],
        "echo": True,
        "raw": True,
    }
    headers = {"X-Request-ID": "trace-7"}
    response = httpx.post(f"{url}/generate", json=asked, headers=headers)
    assert response.headers["x-request-id"] == "trace-7"
    (seen,) = worker.seen
    params = seen.params
    told = {name: getattr(params, name) for name in asked if hasattr(params, name)}
    assert told | {"stop": ["\n", "END"]} == {k: asked[k] for k in told}
    assert (seen.prompt, seen.echo, seen.raw) == ("é\u0001🗼", True, True)
    assert (seen.client, seen.request_id) == ("127.0.0.1", "trace-7")


def test_what_the_client_leaves_open_has_defaults(url: str, worker: ScriptedWorker) -> None:
    for _ in range(2):
        httpx.post(f"{url}/generate", json=BODY | {"stop": "one"})
    first, second = worker.seen
    assert (first.model, first.echo, first.raw) == ("smollm2-135m", False, False)
    assert (first.params.max_tokens, first.params.temperature) == (256, 0.7)
    assert first.params.stop == ("one",)
    assert first.params.seed != second.params.seed
    assert first.id != second.id


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<b>"])
def test_a_request_id_that_could_break_a_log_line_is_replaced(
    url: str, worker: ScriptedWorker, given: str
) -> None:
    response = httpx.post(f"{url}/generate", json=BODY, headers={"X-Request-ID": given})
    made = response.headers["x-request-id"]
    assert made
    assert made != given
    assert worker.seen[0].request_id == made


def test_messages_that_pubsub_loses_repeats_or_reorders_change_nothing(
    url: str, worker: ScriptedWorker, redis: Redis
) -> None:
    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        texts = "abcdefgh"
        events: list[AnyEvent] = [
            Token(seq=seq, ids=(seq,), text=text) for seq, text in enumerate(texts, start=2)
        ]
        events.append(
            Done(
                seq=len(texts) + 2,
                finish_reason=FinishReason.STOP,
                usage=Usage(prompt_tokens=1, completion_tokens=8),
                timings=TIMINGS,
            )
        )
        for event in events:  # all into the log, none announced
            end = "1" if is_terminal(event) else "0"
            fields = {"event": encode(event), "writer": "w", "end": end}
            redis.xadd(names.events(request.id), fields, id=f"{event.seq}-0")
        for seq in (4, 3, 3, 2, 4, 8):
            redis.publish(names.channel(request.id), encode(events[seq - 2]))
        yield from ()

    worker.script = script
    events = stream(url, BODY)
    assert [event.id for event in events] == list(range(1, 11))
    assert text_of(events) == "abcdefgh"


def test_an_end_that_pubsub_loses_is_found_in_the_log(
    url: str, worker: ScriptedWorker, redis: Redis
) -> None:
    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        yield Token(seq=0, ids=(1,), text="All.")
        done = Done(
            seq=3,
            finish_reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=1, completion_tokens=1),
            timings=TIMINGS,
        )
        fields = {"event": encode(done), "writer": "w", "end": "1"}
        redis.xadd(names.events(request.id), fields, id="3-0")

    worker.script = script
    assert [event.event for event in stream(url, BODY)] == ["queued", "token", "done"]


def test_a_stream_outlives_its_pubsub_connection(
    url: str, worker: ScriptedWorker, redis: Redis
) -> None:
    def script(_: GenerationRequest) -> Iterator[AnyEvent | float]:
        for number in range(30):
            if number % 10 == 5:
                redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            yield Token(seq=0, ids=(number,), text=f"{number} ")
            yield 0.01
        yield from words()(_)

    worker.script = script
    events = stream(url, BODY)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert text_of(events) == "".join(f"{number} " for number in range(30))


def test_streams_share_one_pubsub_connection_and_let_go_of_it(
    url: str, worker: ScriptedWorker, redis: Redis
) -> None:
    worker.script = words("a", "b", pause=1)
    with httpx.Client() as client:
        with (
            client.stream("POST", f"{url}/generate/stream", json=BODY) as one,
            client.stream("POST", f"{url}/generate/stream", json=BODY) as two,
        ):
            running = [read_sse(one), read_sse(two)]
            assert [next(each).event for each in running] == ["queued", "queued"]
            assert len(redis.pubsub_channels(names.channel("*"))) == 2
            assert len(redis.client_list(_type="pubsub")) == 1
        until(lambda: not redis.pubsub_channels(names.channel("*")), what="unsubscribing")


async def test_more_streams_than_redis_connections(url: str, worker: ScriptedWorker) -> None:
    worker.script = words(*"abc")
    limits = httpx.Limits(max_connections=150)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post(f"{url}/generate/stream", json=BODY) for _ in range(150))
        )
    assert [answer.text.count("event: token") for answer in answers] == [3] * 150
    assert all("event: done" in answer.text for answer in answers)


def test_a_silent_stream_gets_comments(settings: Settings, worker: ScriptedWorker) -> None:
    worker.script = words("late", pause=0.5)
    with running_api(settings, ping_seconds=0.1) as url:
        raw = httpx.post(f"{url}/generate/stream", json=BODY).text
        plain = httpx.post(
            f"{url}/generate/stream", json=BODY, headers={"Accept": "text/plain"}
        ).text
    assert raw.count("\r\n: ping") >= 2
    assert plain == "late"


@pytest.mark.parametrize("accept", ["text/event-stream", "text/plain"])
def test_a_client_that_no_longer_reads_is_left(
    url: str, worker: ScriptedWorker, redis: Redis, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.3)
    worker.script = words(*["x" * 100_000] * 200)
    headers = {"Accept": accept}
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY, headers=headers):
        until(lambda: redis.pubsub_channels(names.channel("*")) == [], what="unsubscribing")
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_stopping_api_ends_its_streams_and_the_job_goes_on(
    settings: Settings, worker: ScriptedWorker
) -> None:
    worker.script = words("a", "b", "c", pause=1.2)
    with httpx.Client() as client:
        with running_api(settings, shutdown_grace=1.0) as url:
            request = client.build_request("POST", f"{url}/generate/stream", json=BODY)
            events = read_sse(client.send(request, stream=True))
            first = next(events)
        rest = list(events)  # the transfer was completed, not broken off
    assert first.event == "queued"
    assert "done" not in [event.event for event in rest]
    seen = [first, *rest][-1].id
    with running_api(settings) as url:
        headers = {"Last-Event-ID": str(seen)}
        with httpx.stream(
            "GET", f"{url}/jobs/{first.data['id']}/events", headers=headers
        ) as response:
            tail = list(read_sse(response))
    assert text_of([first, *rest, *tail]) == "abc"
    assert [event.id for event in tail] == list(range(seen + 1, 7))


async def test_a_stopping_api_tells_who_waits_that_it_stops(
    settings: Settings, worker: ScriptedWorker
) -> None:
    worker.script = words("a", pause=3)
    async with httpx.AsyncClient(timeout=30) as client:
        with running_api(settings, shutdown_grace=1.0) as url:
            waiting = asyncio.create_task(client.post(f"{url}/generate", json=BODY))
            await until_async(lambda: asyncio.sleep(0, worker.seen), what="the job")
        response = await waiting
    assert (response.status_code, response.json()["code"]) == (503, "stopping")
    assert response.headers["retry-after"]
    assert f"GET /jobs/{worker.seen[0].id}" in response.json()["detail"]


def test_a_stream_that_ends_within_the_grace_time_is_left_alone(
    settings: Settings, worker: ScriptedWorker
) -> None:
    worker.script = words("a", "b", pause=0.5)
    with httpx.Client() as client:
        with running_api(settings, shutdown_grace=5) as url:
            request = client.build_request("POST", f"{url}/generate/stream", json=BODY)
            events = read_sse(client.send(request, stream=True))
            first = next(events)
        assert text_of([first, *(rest := list(events))]) == "ab"
    assert rest[-1].event == "done"
