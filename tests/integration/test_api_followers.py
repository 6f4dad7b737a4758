"""Who follows a job keeps it alive, and whoever leaves lets it go."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from shared import names
from shared.job import now
from shared.settings import Settings
from tests.support.api import read_sse, running_api
from tests.support.poll import until

BODY = {"prompt": "x"}
GRACE = 0.3
INTERVAL = 0.5  # the shortest there is


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """Nobody serves the jobs: they wait for as long as a test needs."""
    with running_api(settings, disconnect_grace=GRACE) as url:
        yield url


@contextmanager
def following(url: str, path: str = "/generate/stream", body: object = BODY) -> Iterator[str]:
    """An open stream; yields its job's id."""
    method = "GET" if path.endswith("/events") else "POST"
    with httpx.stream(method, url + path, json=body) as response:
        events = read_sse(response)  # held: without it the response would be closed
        yield next(events).data["id"]


def lease(redis: Redis, job_id: str) -> float | None:
    score: float | None = redis.zscore(names.ATTENDED, job_id)
    return score


def the_job(redis: Redis) -> str:
    (job_id,) = until(lambda: redis.zrange(names.JOBS, 0, -1), what="the job")
    return str(job_id.decode())


def is_renewed(redis: Redis, job_id: str) -> None:
    first = lease(redis, job_id) or 0.0
    until(lambda: (lease(redis, job_id) or 0) > first, what="a longer lease")


def is_let_go(redis: Redis, job_id: str) -> None:
    """Its time passes, and the interval with it in which a renewal would have come."""
    until(lambda: now() > (lease(redis, job_id) or 0), what="the end of the lease")


def test_a_stream_keeps_its_job_until_it_is_closed(url: str, redis: Redis) -> None:
    with following(url) as job_id:
        left = lease(redis, job_id) - now()
        assert GRACE < left <= GRACE + INTERVAL
        is_renewed(redis, job_id)
        is_renewed(redis, job_id)
    is_let_go(redis, job_id)


@contextmanager
def asking(url: str, accept: str, path: str) -> Iterator[None]:
    """A connection that waits for an answer that does not come."""
    address = urlsplit(url)
    body = b'{"prompt": "x"}'
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nAccept: {accept}\r\n\r\n".encode()
            + body
        )
        yield


@pytest.mark.parametrize(
    ("path", "accept"), [("/generate", "*/*"), ("/generate/stream", "text/plain")]
)
def test_whoever_waits_for_an_answer_keeps_the_job_until_it_hangs_up(
    url: str, redis: Redis, path: str, accept: str
) -> None:
    with asking(url, accept, path):
        job_id = the_job(redis)
        is_renewed(redis, job_id)
        is_renewed(redis, job_id)
    is_let_go(redis, job_id)
    until(lambda: not redis.pubsub_channels(names.channel("*")), what="unsubscribing")


def test_one_of_two_followers_is_enough(url: str, redis: Redis) -> None:
    with ExitStack() as first:
        job_id = first.enter_context(following(url))
        with following(url, f"/jobs/{job_id}/events"):
            first.close()
            is_renewed(redis, job_id)
            is_renewed(redis, job_id)
    is_let_go(redis, job_id)


def test_coming_back_counts_at_once(settings: Settings, redis: Redis) -> None:
    with running_api(settings, disconnect_grace=30) as url:  # renews every 5 s
        with following(url) as job_id:
            pass
        redis.zadd(names.ATTENDED, {job_id: now() + 0.1})
        began = time.monotonic()
        with httpx.stream("GET", f"{url}/jobs/{job_id}/events?after=1") as response:
            assert response.status_code == 200
            assert lease(redis, job_id) > now() + 29
    assert time.monotonic() - began < 4


def test_jobs_in_the_background_need_nobody(url: str, redis: Redis) -> None:
    made = httpx.post(f"{url}/jobs", json=BODY).json()["id"]
    with (
        following(url, f"/jobs/{made}/events"),
        following(url, body=BODY | {"background": True}) as other,
        following(url) as third,
    ):
        is_renewed(redis, third)
        is_renewed(redis, third)
        assert lease(redis, made) is None
        assert lease(redis, other) is None


def test_a_job_that_has_left_the_set_does_not_come_back(url: str, redis: Redis) -> None:
    with following(url) as ended, following(url) as other:
        redis.zrem(names.ATTENDED, ended)
        is_renewed(redis, other)
        is_renewed(redis, other)
        assert lease(redis, ended) is None
