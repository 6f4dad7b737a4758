"""Redis hangs, dies and comes back: who asks is told soon, who follows loses nothing."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import structlog
from redis import Redis

from api import repeating
from shared import names
from shared.configuration import load_settings
from shared.events import Done, FinishReason, Started, Token
from shared.job import now
from shared.ledger import Ledger
from shared.redis import connect
from shared.settings import Settings
from tests.support.api import read_sse, running_api, text_of
from tests.support.poll import until
from tests.support.scripted_worker import TIMINGS, USAGE, Author
from tests.support.valkey import running_valkey

BODY = {"prompt": "x"}
SOON = 5.0
"""Seconds; a client that is told by then that nobody answers can act on it."""


@pytest.fixture
def own(clean_environment: None, short_tmp: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings of a server that is this test's to break."""
    folder = short_tmp / f"own{abs(hash(request.node.name)) % 10_000}"
    return load_settings(data_dir=folder, rate_limit="1000/minute", shutdown_grace=0.5)


@pytest.fixture
def valkey(own: Settings) -> Iterator[subprocess.Popen[bytes]]:
    with running_valkey(own) as process:
        yield process


@pytest.fixture
def redis(own: Settings, valkey: subprocess.Popen[bytes]) -> Iterator[Redis]:
    with connect(own, "test") as client:
        yield client


async def answers(url: str, job_id: str) -> list[tuple[int, str, float]]:
    """Status, code and seconds of every operation that needs Redis, all asked at once."""

    async def ask(client: httpx.AsyncClient, method: str, path: str) -> tuple[int, str, float]:
        began = time.monotonic()
        json = BODY if method == "POST" else None
        response = await client.request(method, url + path, json=json)
        assert response.headers["retry-after"]
        return response.status_code, response.json()["code"], time.monotonic() - began

    async with httpx.AsyncClient(timeout=30) as client:
        return await asyncio.gather(
            ask(client, "POST", "/generate"),
            ask(client, "POST", "/generate/stream"),
            ask(client, "POST", "/jobs"),
            ask(client, "POST", "/tokenize"),
            ask(client, "GET", f"/jobs/{job_id}"),
            ask(client, "GET", f"/jobs/{job_id}/events"),
            ask(client, "DELETE", f"/jobs/{job_id}"),
            ask(client, "GET", "/models"),
            ask(client, "GET", "/readyz"),
        )


def test_whoever_asks_a_service_whose_redis_hangs_is_told_so_soon(
    own: Settings, valkey: subprocess.Popen[bytes], redis: Redis
) -> None:
    with running_api(own) as url:
        job_id = httpx.post(f"{url}/jobs", json=BODY).json()["id"]
        valkey.send_signal(signal.SIGSTOP)
        try:
            told = asyncio.run(answers(url, job_id))
        finally:
            valkey.send_signal(signal.SIGCONT)
        assert {(status, code) for status, code, _ in told} == {(503, "redis_unavailable")}
        assert max(seconds for _, _, seconds in told) < SOON
        until(lambda: httpx.post(f"{url}/jobs", json=BODY).is_success, what="service again")


def test_whoever_asks_a_service_whose_redis_is_gone_is_told_so_soon(
    own: Settings, valkey: subprocess.Popen[bytes], redis: Redis
) -> None:
    with running_api(own) as url:
        job_id = httpx.post(f"{url}/jobs", json=BODY).json()["id"]
        redis.execute_command("WAITAOF", 1, 0, 5000)
        valkey.kill()
        valkey.wait(timeout=10)
        told = asyncio.run(answers(url, job_id))
        assert {(status, code) for status, code, _ in told} == {(503, "redis_unavailable")}
        assert max(seconds for _, _, seconds in told) < SOON
        with running_valkey(own):
            until(lambda: httpx.post(f"{url}/jobs", json=BODY).is_success, what="service again")
            assert httpx.get(f"{url}/jobs/{job_id}").json()["status"] == "queued"


def test_an_event_source_is_told_in_the_stream_so_that_it_tries_again(
    own: Settings, valkey: subprocess.Popen[bytes], redis: Redis
) -> None:
    """Behind a 503 it never would."""
    with running_api(own) as url:
        job_id = httpx.post(f"{url}/jobs", json=BODY).json()["id"]
        redis.execute_command("WAITAOF", 1, 0, 5000)
        valkey.kill()
        valkey.wait(timeout=10)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": "1"}
        with httpx.stream("GET", f"{url}/jobs/{job_id}/events", headers=headers) as response:
            (event,) = read_sse(response)
        assert (response.status_code, event.event, event.id) == (200, "error", None)
        assert event.data["code"] == "redis_unavailable"
        counted = httpx.get(f"{url}/metrics").text
        assert 'minivault_refusals_total{code="redis_unavailable"} 1.0' in counted


@pytest.mark.usefixtures("valkey")
def test_a_redis_that_is_full_refuses_jobs_and_keeps_what_it_has(
    own: Settings, redis: Redis
) -> None:
    with running_api(own) as url:
        job_id = httpx.post(f"{url}/jobs", json=BODY).json()["id"]
        redis.config_set("maxmemory", 1)
        for path in ("/generate", "/generate/stream", "/jobs"):
            refused = httpx.post(url + path, json=BODY)
            assert refused.status_code == 503
            assert refused.json()["code"] == "redis_unavailable"
            assert refused.headers["retry-after"]
        assert httpx.get(f"{url}/jobs/{job_id}").json()["status"] == "queued"
        redis.config_set("maxmemory", 0)
        assert httpx.post(f"{url}/jobs", json=BODY).is_success


def test_streams_go_on_from_the_log_when_redis_is_back(own: Settings) -> None:
    heard: list[str] = []
    with ExitStack() as stack, ExitStack() as first:
        first.enter_context(running_valkey(own))
        redis = stack.enter_context(connect(own, "test"))
        url = stack.enter_context(running_api(own, ping_seconds=0.2))
        response = stack.enter_context(httpx.stream("POST", f"{url}/generate/stream", json=BODY))
        lines = response.iter_lines()
        while "event: queued" not in heard:
            heard.append(next(lines))
        (job_id,) = (each.decode() for each in redis.zrange(names.JOBS, 0, -1))
        author = Author(redis, job_id)
        assert author.append(Started(seq=2, prompt_tokens=1))
        while "event: started" not in heard:
            heard.append(next(lines))
        redis.execute_command("WAITAOF", 1, 0, 5000)
        first.close()  # with SIGKILL
        # The stream is silent but for its pings.
        pings = 0
        while pings < 10:
            line = next(lines)
            assert not line.startswith("event:")
            pings += line.startswith(": ping")
        stack.enter_context(running_valkey(own))
        for seq in range(3, 20):
            assert author.append(Token(seq=seq, ids=(seq,), text=f"{seq} "))
        done = Done(seq=20, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS)
        assert author.append(done)
        rest = [line for line in lines if line.startswith("id:")]
    assert rest == [f"id: {seq}" for seq in range(3, 21)]


def test_a_stream_is_not_kept_from_what_was_said_while_it_could_not_hear(
    own: Settings, valkey: subprocess.Popen[bytes], redis: Redis
) -> None:
    """The server hangs, and everything is said before the stream hears again."""
    with (
        running_api(own) as url,
        httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response,
    ):
        events = read_sse(response)
        heard = [next(events)]
        author = Author(redis, heard[0].data["id"])
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        valkey.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # longer than a stream is content with silence
        valkey.send_signal(signal.SIGCONT)
        for seq in range(2, 9):
            assert author.append(Token(seq=seq, ids=(seq,), text=str(seq)))
        author.append(Done(seq=9, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS))
        heard += events
    assert [event.id for event in heard if event.id] == list(range(1, 10))
    assert text_of(heard) == "2345678"


def test_followers_are_told_of_soon_after_an_outage(own: Settings) -> None:
    with ExitStack() as stack, ExitStack() as first:
        logs = stack.enter_context(structlog.testing.capture_logs())
        first.enter_context(running_valkey(own))
        redis = stack.enter_context(connect(own, "test"))
        url = stack.enter_context(running_api(own, disconnect_grace=30))  # renews every 5 s
        response = stack.enter_context(httpx.stream("POST", f"{url}/generate/stream", json=BODY))
        events = read_sse(response)
        job_id = next(events).data["id"]
        redis.execute_command("WAITAOF", 1, 0, 5000)
        first.close()
        failed = "Attendance.renew_all"
        until(lambda: failed in [entry.get("what") for entry in logs], what="a failed renewal")
        stack.enter_context(running_valkey(own))
        redis.zadd(names.ATTENDED, {job_id: 1})
        began = time.monotonic()
        until(lambda: redis.zscore(names.ATTENDED, job_id) > now() + 20, what="a renewed lease")
        assert time.monotonic() - began < 4 * repeating.RETRY_SECONDS
        assert Ledger(redis, "w", own.models).unattended(now()) == []
