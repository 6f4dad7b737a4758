"""Jobs read and followed apart from the request that made them."""

import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from shared import names
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    FinishReason,
    Loading,
    Queued,
    Resumed,
    Started,
    Token,
    encode,
)
from shared.job import GenerationRequest
from shared.settings import Settings
from tests.support.api import Sse, read_sse, running_api, stream, text_of
from tests.support.poll import until
from tests.support.scripted_worker import (
    TIMINGS,
    USAGE,
    Author,
    Script,
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
    author = Author(redis, JOB)
    told = []
    for event in (
        Queued(seq=1, id=JOB, model="smollm2-135m", position=3),
        Loading(seq=2, model="smollm2-135m"),
        Started(seq=3, prompt_tokens=4),
        Token(seq=4, ids=(1,), text="On"),
        Resumed(seq=5, attempt=2),
        Token(seq=6, ids=(2,), text="ce"),
    ):
        assert author.append(event)
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
    for response in (
        httpx.get(f"{url}/jobs/{job_id}"),
        httpx.get(f"{url}/jobs/{job_id}/events"),
        httpx.delete(f"{url}/jobs/{job_id}"),
    ):
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] in {"job_not_found", "not_found"}


@pytest.mark.parametrize(("left_behind", "code"), [(["1"], "job_expired"), ([], "job_not_found")])
def test_a_log_that_expires_under_a_stream_ends_it(
    url: str, redis: Redis, left_behind: list[str], code: str
) -> None:
    author = Author(redis, JOB)
    author.append(Queued(seq=1, id=JOB, model="smollm2-135m", position=0))
    with httpx.stream("GET", f"{url}/jobs/{JOB}/events") as response:
        events = read_sse(response)
        assert next(events).event == "queued"
        for mark in left_behind:
            redis.set(names.ended(JOB), mark)
        redis.delete(names.events(JOB))
        last = next(each for each in events if each.event != "queued")
    assert (last.event, last.id, last.data["code"]) == ("error", None, code)


def test_an_expired_job_is_gone_rather_than_unknown(
    url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    job_id = httpx.post(f"{url}/generate", json=BODY).json()["id"]
    until(lambda: redis.exists(names.ended(job_id)), what="the mark")
    redis.delete(names.events(job_id))
    for response in (
        httpx.get(f"{url}/jobs/{job_id}"),
        httpx.get(f"{url}/jobs/{job_id}/events"),
        httpx.get(f"{url}/jobs/{job_id}/events?after=3"),
        httpx.delete(f"{url}/jobs/{job_id}"),
    ):
        assert response.status_code == 410
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "job_expired"


def test_a_running_job_is_cancelled(url: str, redis: Redis, worker: ScriptedWorker) -> None:
    obey = threading.Event()
    worker.script = until_cancelled(redis, obey)
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
        events = read_sse(response)
        job_id = next(events).data["id"]
        assert next(events).event == "token"
        answer = httpx.delete(f"{url}/jobs/{job_id}")
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
        assert redis.lrange(names.calls(worker.NAME), 0, -1) == [job_id.encode()]
        obey.set()
        assert list(events)[-1].event == "cancelled"
    until(lambda: not redis.zscore(names.JOBS, job_id), what="the job's end")
    for _ in range(2):
        answer = httpx.delete(f"{url}/jobs/{job_id}")
        assert answer.status_code == 200
        told = answer.json()
        assert (told["status"], told["finish_reason"]) == ("cancelled", "cancelled")
        assert told["response"]
        assert told["usage"]["completion_tokens"] == 1
    assert not redis.exists(names.CANCELS)


def test_a_waiting_job_is_called_off_once_however_often_it_is_asked(url: str, redis: Redis) -> None:
    job_id = httpx.post(f"{url}/jobs", json=BODY).json()["id"]
    for _ in range(3):
        answer = httpx.delete(f"{url}/jobs/{job_id}")
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert redis.smembers(names.CANCELS) == {job_id.encode()}
    assert redis.lrange(names.CALLS, 0, -1) == [job_id.encode()]


@pytest.mark.parametrize("script", [words("a"), failing("generation_failed")])
def test_a_job_that_has_ended_is_not_cancelled_any_more(
    url: str, redis: Redis, worker: ScriptedWorker, script: Script
) -> None:
    worker.script = script
    job_id = stream(url, BODY)[0].data["id"]
    until(lambda: not redis.zscore(names.JOBS, job_id), what="the job's end")
    before = httpx.get(f"{url}/jobs/{job_id}").json()
    answer = httpx.delete(f"{url}/jobs/{job_id}")
    assert (answer.status_code, answer.json()) == (200, before)
    assert not redis.exists(names.CANCELS)


def test_a_job_that_was_put_back_goes_on_behind_its_failure(
    url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    worker.script = failing("worker_lost", "Hal")
    job_id = stream(url, BODY)[0].data["id"]
    author = Author(redis, job_id)
    put_back(redis, job_id, seq=5)
    assert httpx.get(f"{url}/jobs/{job_id}").json()["status"] == "queued"
    assert httpx.get(f"{url}/jobs/{job_id}").json()["error"] is None
    for event in (
        Resumed(seq=6, attempt=2),
        Token(seq=7, ids=(2,), text="lo"),
        Done(seq=8, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS),
    ):
        assert author.append(event)
    events = follow(url, job_id)
    assert [event.id for event in events] == list(range(1, 9))
    assert [event.event for event in events[3:5]] == ["error", "queued"]
    assert text_of(events) == "Hallo"
    job = httpx.get(f"{url}/jobs/{job_id}").json()
    assert (job["status"], job["response"], job["error"]) == ("done", "Hallo", None)
    # Whoever had read up to the failure hears the rest.
    assert [event.id for event in follow(url, job_id, "?after=4")] == [5, 6, 7, 8]


def test_a_repeated_request_reads_beyond_a_failure_that_was_not_the_end(
    url: str, redis: Redis, worker: ScriptedWorker
) -> None:
    worker.script = failing("worker_lost", "Hal")
    key = {"Idempotency-Key": "k", "Accept": "text/plain"}
    with (
        httpx.stream("POST", f"{url}/generate/stream", json=BODY, headers=key) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        response.read()
    (job_id,) = [job.id for job in worker.seen]
    author = Author(redis, job_id)
    put_back(redis, job_id, seq=5)
    author.append(Token(seq=6, ids=(2,), text="lo"))
    author.append(Done(seq=7, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS))
    again = httpx.post(f"{url}/generate/stream", json=BODY, headers=key)
    assert (again.status_code, again.text) == (200, "Hallo")
    whole = httpx.post(f"{url}/generate", json=BODY, headers=key)
    assert (whole.status_code, whole.json()["response"]) == (200, "Hallo")


def put_back(redis: Redis, job_id: str, seq: int) -> None:
    """What `minivault jobs retry` leaves in the log."""
    queued = Queued(seq=seq, id=job_id, model="smollm2-135m", position=0)
    fields = {"event": encode(queued), "writer": "retry", "end": "0"}
    redis.xadd(names.events(job_id), fields, id=f"{seq}-0")


def until_cancelled(redis: Redis, obey: threading.Event) -> Script:
    """Talk until somebody wants it to stop and `obey` allows it."""

    def script(request: GenerationRequest) -> Iterator[AnyEvent | float]:
        yield Token(seq=0, ids=(1,), text="word ")
        deadline = time.monotonic() + 10
        while not (redis.sismember(names.CANCELS, request.id) and obey.is_set()):
            assert time.monotonic() < deadline, "nobody cancelled"
            yield 0.01
        yield Cancelled(seq=0, usage=USAGE, timings=TIMINGS)

    return script
