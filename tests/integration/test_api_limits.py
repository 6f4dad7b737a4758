"""The rate limit: one window a client, shared by all API processes through Redis."""

import asyncio
import re
import time
from collections.abc import Iterator

import httpx
import pytest
from pyrate_limiter import Duration, Rate, RateItem
from redis import Redis

from api.limits import ClientBuckets
from shared import names
from shared.redis import connect_async
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.poll import until
from tests.support.scripted_worker import ScriptedWorker, scripted_worker, words

BODY = {"prompt": "x"}


@pytest.fixture(autouse=True)
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words("ok")) as worker:
        yield worker


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings, rate_limit="5/minute") as url:
        yield url


@pytest.fixture
def other(settings: Settings) -> Iterator[str]:
    with running_api(settings, rate_limit="5/minute") as url:
        yield url


def ask(url: str, path: str = "/generate", **headers: str) -> httpx.Response:
    return httpx.post(
        url + path, json=BODY, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_two_processes_and_both_ways_to_generate_share_one_window(url: str, other: str) -> None:
    answers = [
        ask(url),
        ask(other),
        ask(url, "/generate/stream"),
        ask(other, "/generate/stream"),
        ask(url),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    told = [re.fullmatch(r'"default";r=(\d);t=(\d+)', a.headers["ratelimit"]) for a in answers]
    assert [match and match[1] for match in told] == ["4", "3", "2", "1", "0"]
    assert all(match and 55 <= int(match[2]) <= 60 for match in told)
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"default";q=5;w=60'}
    for refused in (ask(url), ask(other), ask(other, "/generate/stream")):
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "rate_limited"
        assert refused.headers["ratelimit-policy"] == '"default";q=5;w=60'
        assert refused.headers["ratelimit"].startswith('"default";r=0;t=')
        assert 55 <= int(refused.headers["retry-after"]) <= 60


def test_another_client_has_a_window_of_its_own(url: str) -> None:
    assert [ask(url).status_code for _ in range(6)] == [200] * 5 + [429]
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as neighbour:
        assert neighbour.post(f"{url}/generate", json=BODY).status_code == 200


def test_a_forged_header_changes_nothing(url: str) -> None:
    answers = [
        ask(url, X_Forwarded_For=f"10.0.0.{n}", Forwarded=f"for=10.0.0.{n}") for n in range(6)
    ]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]


def test_a_trusted_proxy_is_believed_from_the_right(
    settings: Settings, worker: ScriptedWorker
) -> None:
    proxies = ("127.0.0.1", "10.0.0.0/8")
    with running_api(settings, rate_limit="2/minute", trusted_proxies=proxies) as url:
        via = ["6.6.6.6, 192.0.2.7", "7.7.7.7, 192.0.2.7, 10.1.2.3", "192.0.2.7"]
        assert [ask(url, X_Forwarded_For=each).status_code for each in via] == [200, 200, 429]
        assert ask(url, X_Forwarded_For="192.0.2.7, 192.0.2.8").status_code == 200
    assert [job.client for job in worker.seen] == ["192.0.2.7"] * 2 + ["192.0.2.8"]


def test_refused_and_bad_requests_take_no_permit(url: str) -> None:
    for body in ({}, {"prompt": ""}, {"prompt": "x", "model": "no"}):
        assert httpx.post(f"{url}/generate", json=body).status_code in {404, 422}
    assert httpx.post(f"{url}/generate", content=b"{").status_code == 415
    assert ask(url, "/generate/stream", Accept="image/png").status_code == 406
    assert [ask(url).status_code for _ in range(5)] == [200] * 5


def test_only_generating_is_limited(url: str) -> None:
    assert [ask(url).status_code for _ in range(6)][-1] == 429
    for path in ("/models", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert httpx.get(url + path).status_code == 200
        assert "ratelimit" not in httpx.get(url + path).headers


def test_a_permit_comes_back_when_it_was_promised(settings: Settings) -> None:
    with running_api(settings, rate_limit="2/second") as url:
        refused = None
        while refused is None:  # a slow machine may let the first ones age
            refused = next((a for a in [ask(url) for _ in range(3)] if a.status_code == 429), None)
        assert refused.headers["retry-after"] == "1"
        time.sleep(1)
        assert ask(url).status_code == 200


async def test_a_burst_gets_exactly_what_the_limit_allows(url: str, other: str) -> None:
    async with httpx.AsyncClient() as client:
        answers = await asyncio.gather(
            *(client.post(f"{each}/generate", json=BODY) for each in (url, other) * 10)
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 15


def test_an_idle_client_leaves_nothing_behind(settings: Settings, redis: Redis) -> None:
    with running_api(settings, rate_limit="2/second") as url:
        ask(url)
        key = names.rate_limit("127.0.0.1")
        assert 0 < redis.pttl(key) <= 1000
        until(lambda: not redis.exists(key), what="the key's end")


def test_a_busy_client_s_window_does_not_grow(settings: Settings, redis: Redis) -> None:
    key = names.rate_limit("127.0.0.1")
    redis.zadd(key, {f"old{n}": n for n in range(1000)})
    with running_api(settings, rate_limit="2/second") as url:
        assert ask(url).status_code == 200
    assert redis.zcard(key) <= 1


def test_a_restarted_redis_that_forgot_the_script_is_taught_again(url: str, redis: Redis) -> None:
    assert ask(url).status_code == 200
    redis.script_flush()
    assert ask(url).headers["ratelimit"].startswith('"default";r=3')


def test_a_limit_that_is_off_is_not_mentioned(settings: Settings) -> None:
    with running_api(settings, rate_limit="off") as url:
        answers = [ask(url) for _ in range(7)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


async def test_a_process_whose_clock_is_behind_counts_what_the_others_took(
    settings: Settings, redis: Redis
) -> None:
    assert redis.ping()
    now = time.time_ns() // 1_000_000
    async with connect_async(settings, "test") as client:
        buckets = ClientBuckets(client, Rate(2, Duration.MINUTE))
        items = [RateItem("someone", now + ahead) for ahead in (50, 50, 0)]
        assert [await buckets.get(item).put(item) for item in items] == [True, True, False]
