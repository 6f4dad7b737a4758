"""What a submission may say beside the prompt, and what comes of sending it again."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from shared import names
from shared.job import now
from shared.ledger import Ledger
from shared.settings import Settings
from tests.support.api import read_sse, running_api, stream, text_of
from tests.support.poll import until
from tests.support.scripted_worker import ScriptedWorker, scripted_worker, words

BODY = {"prompt": "Say something."}
KEY = {"Idempotency-Key": "order-7"}


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words("a", "b", "c")) as worker:
        yield worker


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings, max_priority=9) as url:
        yield url


def submit(url: str, body: dict[str, Any] = BODY, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/jobs", json=body, headers=headers)


def waiting(redis: Redis, settings: Settings) -> list[str]:
    order = redis.zrange(names.order(settings.default_model), 0, -1)
    return [job_id.decode() for job_id in order]


def test_a_job_is_submitted_without_being_waited_for(url: str, worker: ScriptedWorker) -> None:
    response = submit(url)
    assert response.status_code == 202
    made = response.json()
    assert response.headers["location"] == f"/jobs/{made['id']}"
    assert made["model"] == "smollm2-135m"
    job = until(
        lambda: (job := httpx.get(url + response.headers["location"]).json())["usage"] and job,
        what="the job's end",
    )
    assert (job["id"], job["status"], job["response"]) == (made["id"], "done", "abc")
    assert worker.seen[0].background is True


def test_before_a_worker_has_it_a_job_is_queued(url: str, settings: Settings, redis: Redis) -> None:
    response = submit(url)
    assert response.json() == {
        "id": waiting(redis, settings)[0],
        "model": "smollm2-135m",
        "status": "queued",
        "response": "",
        "finish_reason": None,
        "usage": None,
        "timings": None,
        "error": None,
    }


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
def test_other_ways_of_asking_go_on_in_the_background_if_told_so(
    url: str, worker: ScriptedWorker, path: str
) -> None:
    for body in (BODY, BODY | {"background": True}):
        assert httpx.post(url + path, json=body).status_code == 200
    assert [job.background for job in worker.seen] == [False, True]


def test_the_same_key_gives_the_same_job_however_it_is_followed(
    url: str, settings: Settings, worker: ScriptedWorker
) -> None:
    first = stream(url, BODY, **KEY)
    again = stream(url, BODY, **KEY)
    assert again == first
    assert text_of(again) == "abc"
    with running_api(settings) as other:
        whole = httpx.post(f"{other}/generate", json=BODY, headers=KEY).json()
    assert (whole["id"], whole["response"]) == (first[0].data["id"], "abc")
    plain = httpx.post(f"{url}/generate/stream", json=BODY, headers=KEY | {"Accept": "text/plain"})
    assert plain.text == "abc"
    assert len(worker.seen) == 1


def test_a_job_submitted_twice_has_one_location(url: str, worker: ScriptedWorker) -> None:
    first, again = submit(url, **KEY), submit(url, **KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["location"] == again.headers["location"]
    assert submit(url).headers["location"] != first.headers["location"]


def test_a_second_request_joins_a_job_that_runs(url: str, worker: ScriptedWorker) -> None:
    worker.script = words(*"abcdef", pause=0.05)
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY, headers=KEY) as response:
        events = read_sse(response)
        first = [next(events) for _ in range(4)]
        again = stream(url, BODY, **KEY)
        assert [*first, *events] == again
    assert len(worker.seen) == 1


def test_a_key_belongs_to_its_client(url: str, worker: ScriptedWorker) -> None:
    first = submit(url, **KEY).headers["location"]
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as neighbour:
        other = neighbour.post(f"{url}/jobs", json=BODY, headers=KEY)
    assert other.headers["location"] != first


def test_a_key_stands_for_one_request(url: str, worker: ScriptedWorker) -> None:
    assert submit(url, BODY | {"seed": 5, "max_tokens": 8}, **KEY).status_code == 202
    # The same to JSON.
    assert submit(url, {"max_tokens": 8.0, "seed": 5} | BODY, **KEY).status_code == 202
    for body in (BODY, BODY | {"seed": 6, "max_tokens": 8}, BODY | {"ttl": 5}):
        response = submit(url, body, **KEY)
        assert (response.status_code, response.json()["code"]) == (409, "idempotency_conflict")
    # A job that must not be left is not one that may be.
    body = BODY | {"seed": 5, "max_tokens": 8}
    followed = httpx.post(f"{url}/generate", json=body, headers=KEY)
    assert (followed.status_code, followed.json()["code"]) == (409, "idempotency_conflict")
    in_background = httpx.post(f"{url}/generate", json=body | {"background": True}, headers=KEY)
    assert in_background.status_code == 200


def test_a_seed_that_was_chosen_for_the_client_is_no_difference(
    url: str, worker: ScriptedWorker
) -> None:
    assert len({submit(url, **KEY).headers["location"] for _ in range(3)}) == 1


@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/jobs"])
def test_a_known_job_that_has_expired_is_gone(
    url: str, worker: ScriptedWorker, redis: Redis, path: str
) -> None:
    made = httpx.post(url + path, json=BODY, headers=KEY)
    (job_id,) = [job.id for job in until(lambda: worker.seen, what="the job")]
    assert made.is_success
    until(lambda: redis.exists(names.ended(job_id)), what="the job's end")
    redis.delete(names.events(job_id))
    response = httpx.post(url + path, json=BODY, headers=KEY)
    assert (response.status_code, response.json()["code"]) == (410, "job_expired")
    assert len(worker.seen) == 1


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "tab\there", b"caf\xc3\xa9"])
def test_a_key_that_is_none_is_refused(url: str, worker: ScriptedWorker, key: str | bytes) -> None:
    for path in ("/generate", "/generate/stream", "/jobs"):
        response = httpx.post(url + path, json=BODY, headers={"Idempotency-Key": key})
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert [error["field"] for error in response.json()["errors"]] == ["idempotency-key"]
    assert worker.seen == []


@pytest.mark.parametrize("key", ["x", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~"])
def test_a_key_may_be_any_visible_ascii(url: str, key: str) -> None:
    assert submit(url, **{"Idempotency-Key": key}).status_code == 202


def test_higher_priorities_go_first(url: str, settings: Settings, redis: Redis) -> None:
    made = [submit(url, BODY | {"priority": priority}).json()["id"] for priority in (0, 3.0, 9)]
    assert waiting(redis, settings) == made[::-1]


def test_a_priority_is_a_privilege(settings: Settings) -> None:
    with running_api(settings, max_priority=3) as url:
        assert submit(url, BODY | {"priority": 3}).status_code == 202
        response = submit(url, BODY | {"priority": 4})
    assert (response.status_code, response.json()["code"]) == (403, "priority_not_allowed")
    assert response.json()["detail"] == "The highest priority allowed here is 3."


def test_a_job_says_how_long_it_may_wait(settings: Settings, redis: Redis) -> None:
    with running_api(settings, queue_ttl=100) as url:
        ids = [submit(url, BODY | body).json()["id"] for body in ({}, {"ttl": 1}, {"ttl": 100})]
        refused = submit(url, BODY | {"ttl": 100.1})
    left = [redis.zscore(names.DEADLINES, job_id) - now() for job_id in ids]
    assert 90 < left[0] <= 100
    assert -10 < left[1] <= 1
    assert 90 < left[2] <= 100
    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"field": "ttl", "message": "At most 100 s are allowed."}]


def test_ipv6_clients_are_one_by_their_network(settings: Settings, redis: Redis) -> None:
    proxies = ("127.0.0.1",)
    with running_api(settings, trusted_proxies=proxies) as url:
        made = [
            submit(url, **KEY, **{"X-Forwarded-For": address})
            for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
        ]
    ids = [response.json()["id"] for response in made]
    assert ids[0] == ids[1] != ids[2]
    assert redis.scard(names.in_flight("2001:db8::/64")) == 1
    assert redis.scard(names.in_flight("2001:db8:0:1::/64")) == 1


def test_a_client_s_jobs_are_its_own_until_they_end(
    settings: Settings, redis: Redis, url: str
) -> None:
    submit(url)
    assert redis.scard(names.in_flight("127.0.0.1")) == 1
    with scripted_worker(redis, settings.default_model, words("a")):
        until(lambda: not redis.exists(names.in_flight("127.0.0.1")), what="the job's end")


def test_what_can_not_be_submitted_leaves_nothing(
    settings: Settings, redis: Redis, url: str
) -> None:
    response = submit(url, BODY | {"model": "no-such"}, **KEY)
    assert response.status_code == 404
    assert Ledger(redis, "test", settings.models).take() is None
    assert not redis.keys("minivault:idempotency:*")
