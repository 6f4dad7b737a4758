"""A client that does not read is dropped, and nobody else notices it."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import structlog
from redis import Redis

from api import connection
from shared import names
from shared.settings import Settings
from tests.support.api import api_process, read_sse, running_api
from tests.support.poll import until
from tests.support.scripted_worker import scripted_worker, words
from tests.support.slow_readers import JOB, ask, followers, write_log

BODY = {"prompt": "x"}
PATIENCE = 0.5


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", PATIENCE)


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


def open_connections(url: str) -> int:
    """The API's side of them; the API is a thread of this process."""
    port = urlsplit(url).port
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process().net_connections("tcp")
    )


def test_a_stream_that_nobody_reads_is_dropped_with_its_connection(url: str, redis: Redis) -> None:
    write_log(redis, tokens=200, size=100_000)
    with ask(url, f"/jobs/{JOB}/events"):
        until(lambda: followers(redis) == 1, what="the stream")
        until(lambda: followers(redis) == 0, what="the stream's end")
        until(lambda: open_connections(url) == 0, what="the connection's end")
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_nor_does_a_pile_of_other_answers_stay(url: str, redis: Redis) -> None:
    """Each is written whole before anybody could notice that the one before is not read."""
    write_log(redis, tokens=20, size=100_000)
    with (
        structlog.testing.capture_logs() as logs,
        ask(url, *[f"/jobs/{JOB}"] * 20, "/docs"),
    ):
        until(lambda: open_connections(url) == 1, what="the connection")
        until(lambda: open_connections(url) == 0, what="its end")
        until(lambda: "request" in [entry["event"] for entry in logs], what="its log line")
    # To the service this is nothing unexpected.
    assert {entry["log_level"] for entry in logs} <= {"info", "warning"}


def test_an_answer_that_is_complete_but_not_read_does_not_stay(url: str, redis: Redis) -> None:
    write_log(redis, tokens=200, size=100_000)
    with ask(url, f"/jobs/{JOB}"):
        until(lambda: open_connections(url) == 1, what="the connection")
        until(lambda: open_connections(url) == 0, what="its end")


@pytest.mark.parametrize(
    ("path", "end"), [(f"/jobs/{JOB}/events", b"event: done"), (f"/jobs/{JOB}", b'"error":null}')]
)
def test_whoever_reads_slowly_but_reads_is_served_to_the_end(
    url: str, redis: Redis, path: str, end: bytes
) -> None:
    """Also where all of it is written at once."""
    write_log(redis, tokens=100, size=100_000)
    parts = [b""]
    began = time.monotonic()
    with ask(url, path) as raw:
        while end not in b"".join(parts[-2:]):
            if time.monotonic() - began < 4 * PATIENCE and len(parts) % 20 == 0:
                time.sleep(PATIENCE / 10)
            parts.append(raw.recv(4096))
            assert parts[-1], "dropped"
    assert b"".join(parts).count(b"x" * 100_000) == 100


def test_a_reader_that_was_dropped_resumes(url: str, redis: Redis) -> None:
    write_log(redis, tokens=200, size=100_000)
    with ask(url, f"/jobs/{JOB}/events") as raw:
        until(lambda: open_connections(url) == 1, what="the connection")
        until(lambda: open_connections(url) == 0, what="its end")
        heard = b""
        try:
            while part := raw.recv(65536):
                heard += part
        except ConnectionResetError:
            pass
    # Only whole events count: those with an empty line behind them.
    whole = heard[: heard.rfind(b"\r\n\r\n")]
    last = max([int(line[4:]) for line in whole.split(b"\r\n") if line.startswith(b"id: ")])
    assert last < 202
    headers = {"Last-Event-ID": str(last)}
    with httpx.stream("GET", f"{url}/jobs/{JOB}/events", headers=headers) as response:
        rest = [event.id for event in read_sse(response)]
    assert rest == list(range(last + 1, 203))


def test_a_follower_that_is_stuck_does_not_keep_its_job_alive(
    settings: Settings, redis: Redis
) -> None:
    with running_api(settings, disconnect_grace=0.3) as url:
        write_log(redis, tokens=200, size=100_000)
        redis.xdel(names.events(JOB), "202-0")  # the end: it still runs
        redis.zadd(names.ATTENDED, {JOB: 1})
        with ask(url, f"/jobs/{JOB}/events"):
            until(lambda: redis.zscore(names.ATTENDED, JOB) > 1, what="a lease")
            until(lambda: redis.zscore(names.ATTENDED, JOB) < time.time(), what="its end")


def test_others_are_not_delayed(settings: Settings, redis: Redis, url: str) -> None:
    write_log(redis, tokens=200, size=100_000)
    pause = 0.01
    gaps: list[float] = []

    def follow() -> None:
        with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
            arrivals = [time.monotonic() for each in read_sse(response) if each.event == "token"]
        gaps.extend(later - earlier for earlier, later in itertools.pairwise(arrivals))

    with scripted_worker(redis, settings.default_model, words(*["word"] * 50, pause=pause)):
        stuck = [ask(url, f"/jobs/{JOB}/events") for _ in range(5)]
        until(lambda: followers(redis) == 1, what="the stuck streams")
        readers = [threading.Thread(target=follow) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout=60)
        for each in stuck:
            each.close()
    assert len(gaps) == 3 * 49
    assert sorted(gaps)[int(len(gaps) * 0.9)] < 10 * pause


def test_memory_is_bounded_however_many_are_stuck(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    tokens, size, count = 8000, 2000, 40
    write_log(redis, tokens=tokens, size=size)
    path = f"/jobs/{JOB}/events"
    with api_process(settings, tmp_path / "api.log") as (process, url):
        api = psutil.Process(process.pid)
        with httpx.stream("GET", url + path) as response:
            assert sum(event.event == "token" for event in read_sse(response)) == tokens
        before = api.memory_info().rss
        stuck = [ask(url, path) for _ in range(count)]
        assert all(each.recv(1) for each in stuck)  # each has begun
        busy = [api.cpu_times().user]

        def at_rest() -> bool:
            busy.append(api.cpu_times().user)
            return len(busy) > 50 and busy[-1] - busy[-50] < 0.05

        until(at_rest, seconds=30, what="rest: whatever can be sent is sent")
        grown = api.memory_info().rss - before
        for each in stuck:
            each.close()
    assert grown < count * tokens * size / 10
