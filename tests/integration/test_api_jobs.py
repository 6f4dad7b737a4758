"""Jobs read and followed apart from the request that made them."""

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from shared import names
from shared.events import Loading, Queued, Resumed, Started, Token
from shared.log import EventLog
from shared.settings import Settings
from tests.support.api import Sse, read_sse, running_api, stream, text_of
from tests.support.scripted_worker import (
    ScriptedWorker,
    cancelled,
    failing,
    scripted_worker,
    words,
)

BODY = {"prompt": "Say something."}
JOB = "job-0123456789abcdef0123456789abcdef"


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, settings.default_model, words("a", "b", "c")) as worker:
        yield worker


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


def follow(url: str, job_id: str, query: str = "", **headers: str) -> list[Sse]:
    address = f"{url}/jobs/{job_id}/events{query}"
    with httpx.stream("GET", address, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(read_sse(response))


def test_a_job_goes_through_its_states(url: str, redis: Redis) -> None:
    log = EventLog(redis, "test")
    told = []
    for event in (
        Queued(seq=1, id=JOB, model="smollm2-135m", position=3),
        Loading(seq=2, model="smollm2-135m"),
        Started(seq=3, prompt_tokens=4),
        Token(seq=4, ids=(1,), text="On"),
        Resumed(seq=5, attempt=2),
        Token(seq=6, ids=(2,), text="ce"),
    ):
        assert log.append(JOB, event)
        job = httpx.get(f"{url}/jobs/{JOB}").json()
        told.append((job["status"], job["response"]))
    assert told[0] == ("queued", "")
    assert [status for status, _ in told[1:]] == ["running"] * 5
    assert [text for _, text in told[3:]] == ["On", "On", "Once"]


def test_a_job_that_is_done_tells_all(url: str, worker: ScriptedWorker) -> None:
    made = httpx.post(f"{url}/generate", json=BODY).json()
    job = httpx.get(f"{url}/jobs/{made['id']}").json()
    assert job == made | {"status": "done", "error": None}


def test_a_job_that_failed_says_why(url: str, worker: ScriptedWorker) -> None:
    worker.script = failing("generation_failed", "Hal")
    made = stream(url, BODY)[0].data["id"]
    job = httpx.get(f"{url}/jobs/{made}").json()
    assert (job["status"], job["response"], job["finish_reason"]) == ("failed", "Hal", "error")
    assert job["error"] == {
        "code": "generation_failed",
        "message": "It went wrong in the script.",
    }


def test_a_job_that_was_cancelled_says_so(url: str, worker: ScriptedWorker) -> None:
    worker.script = cancelled("Hal")
    made = stream(url, BODY)[0].data["id"]
    job = httpx.get(f"{url}/jobs/{made}").json()
    assert (job["status"], job["finish_reason"]) == ("cancelled", "cancelled")
    assert job["usage"]["total_tokens"] == 2


def test_a_stream_is_resumed_at_another_process(
    settings: Settings, url: str, worker: ScriptedWorker
) -> None:
    worker.script = words(*"abcdef", pause=0.05)
    head = []
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
        for event in read_sse(response):
            head.append(event)
            if event.id == 4:
                break
    with running_api(settings) as other:
        tail = follow(other, head[0].data["id"], **{"Last-Event-ID": "4"})
    assert [event.id for event in [*head, *tail]] == list(range(1, 10))
    assert text_of([*head, *tail]) == "abcdef"
    assert tail[-1].event == "done"


def test_the_header_wins_over_the_query(url: str, worker: ScriptedWorker) -> None:
    made = stream(url, BODY)
    job_id = made[0].data["id"]
    assert follow(url, job_id) == made
    assert follow(url, job_id, "?after=2") == made[2:]
    assert follow(url, job_id, "?after=2", **{"Last-Event-ID": "4"}) == made[4:]


def test_a_number_beyond_a_running_job_still_sees_its_end(url: str, worker: ScriptedWorker) -> None:
    worker.script = words(*"abc", pause=0.2)
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
        job_id = next(iter(read_sse(response))).data["id"]
    assert follow(url, job_id, "?after=1000")[-1].event == "done"


@pytest.mark.parametrize("after", [6, 7, 2**53 - 1])
def test_nothing_is_left_of_a_job_that_ended(url: str, worker: ScriptedWorker, after: int) -> None:
    made = stream(url, BODY)
    assert made[-1].id == 6
    response = httpx.get(f"{url}/jobs/{made[0].data['id']}/events?after={after}")
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("bad", ["-1", "x", "1.5", "1-0", str(2**53), "9" * 500])
def test_a_number_that_is_none_is_refused(url: str, worker: ScriptedWorker, bad: str) -> None:
    job_id = stream(url, BODY)[0].data["id"]
    address = f"{url}/jobs/{job_id}/events"
    for field, response in (
        ("after", httpx.get(address, params={"after": bad})),
        ("last-event-id", httpx.get(address, headers={"Last-Event-ID": bad})),
    ):
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "invalid_request"
        assert [each["field"] for each in response.json()["errors"]] == [field]


@pytest.mark.parametrize("job_id", [JOB, "x", "..%2f..", "%00", "é", "a" * 3000, "*"])
def test_an_unknown_job_is_a_problem_before_any_stream(url: str, job_id: str) -> None:
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/events"):
        response = httpx.get(url + path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] in {"job_not_found", "not_found"}


def test_a_log_that_expires_under_a_stream_ends_it(
    url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    log = EventLog(redis, "test")
    log.append(JOB, Queued(seq=1, id=JOB, model="smollm2-135m", position=0))
    with httpx.stream("GET", f"{url}/jobs/{JOB}/events") as response:
        events = read_sse(response)
        assert next(events).event == "queued"
        redis.delete(names.events(JOB))
        last = next(events)
    assert (last.event, last.id, last.data["code"]) == ("error", None, "job_not_found")
