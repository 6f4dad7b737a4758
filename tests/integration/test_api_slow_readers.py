"""A client that does not read is dropped, and nobody else notices it."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from redis import Redis

from api import connection
from shared import names
from shared.events import Done, FinishReason, Queued, Token, encode
from shared.settings import Settings
from tests.integration.test_api_process import api_process
from tests.support.api import read_sse, running_api
from tests.support.poll import until
from tests.support.scripted_worker import TIMINGS, USAGE, scripted_worker, words

BODY = {"prompt": "x"}
JOB = "job-0123456789abcdef0123456789abcdef"
PATIENCE = 0.5


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", PATIENCE)


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


def write_log(redis: Redis, *, tokens: int, size: int, job_id: str = JOB) -> None:
    """The whole log of a job that has said a lot; more than kernels buffer for a socket."""
    end = tokens + 2
    pipe = redis.pipeline(transaction=False)
    for event in (
        Queued(seq=1, id=job_id, model="smollm2-135m", position=0),
        *(Token(seq=seq, ids=(seq,), text="x" * size) for seq in range(2, end)),
        Done(seq=end, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS),
    ):
        ends = "1" if event.seq == end else "0"
        fields = {"event": encode(event), "writer": "w", "end": ends}
        pipe.xadd(names.events(job_id), fields, id=f"{event.seq}-0")
    pipe.execute()


def ask(url: str, *requests: str) -> socket.socket:
    """Send GET requests on one connection, and read nothing of what comes."""
    address = urlsplit(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(10)
    raw.connect((address.hostname, address.port))
    raw.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in requests).encode())
    return raw


def open_connections(url: str) -> int:
    """The API's side of them; the API is a thread of this process."""
    port = urlsplit(url).port
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process().net_connections("tcp")
    )


def followers(redis: Redis) -> int:
    return len(redis.pubsub_channels(names.channel("*")))


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
    with ask(url, *[f"/jobs/{JOB}"] * 20, "/docs"):
        until(lambda: open_connections(url) == 1, what="the connection")
        until(lambda: open_connections(url) == 0, what="its end")


def test_an_answer_that_is_complete_but_not_read_does_not_stay(url: str, redis: Redis) -> None:
    write_log(redis, tokens=200, size=100_000)
    with ask(url, f"/jobs/{JOB}"):
        until(lambda: open_connections(url) == 1, what="the connection")
        until(lambda: open_connections(url) == 0, what="its end")


def test_whoever_reads_slowly_but_reads_is_served_to_the_end(url: str, redis: Redis) -> None:
    write_log(redis, tokens=100, size=100_000)
    parts = [b""]
    began = time.monotonic()
    with ask(url, f"/jobs/{JOB}/events") as raw:
        while b"event: done" not in b"".join(parts[-2:]):
            if time.monotonic() - began < 4 * PATIENCE and len(parts) % 20 == 0:
                time.sleep(PATIENCE / 10)
            parts.append(raw.recv(4096))
            assert parts[-1], "dropped"
    assert b"".join(parts).count(b"event: token") == 100


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
        until(lambda: followers(redis) == 1, what="the stuck streams")
        busy = [api.cpu_times().user]

        def at_rest() -> bool:
            busy.append(api.cpu_times().user)
            return len(busy) > 50 and busy[-1] - busy[-50] < 0.05

        until(at_rest, seconds=30, what="rest: whatever can be sent is sent")
        grown = api.memory_info().rss - before
        for each in stuck:
            each.close()
    assert grown < count * tokens * size / 10
