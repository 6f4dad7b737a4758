"""What a full service answers, and what those who wait are told."""

import time
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from api import feed, state
from shared import names
from shared.ledger import Ledger
from shared.settings import Settings
from tests.support.api import Sse, read_sse, running_api, stream, text_of
from tests.support.poll import until
from tests.support.scripted_worker import ScriptedWorker, scripted_worker, words

BODY = {"prompt": "x"}
MODEL = "smollm2-135m"


@pytest.fixture
def worker(redis: Redis) -> ScriptedWorker:
    """Announced, but taking no jobs."""
    return ScriptedWorker(redis, MODEL, words())


def submit(url: str, **body: object) -> httpx.Response:
    return httpx.post(f"{url}/jobs", json=BODY | body)


def refusal(response: httpx.Response) -> tuple[int, str, int]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"], int(response.headers["retry-after"])


def measured(redis: Redis, worker: ScriptedWorker, *, seconds: float, slots: int) -> None:
    """Let a job have taken so long of late."""
    redis.hset(names.PACE, MODEL, seconds)
    worker.announce(slots=slots)


def test_a_full_queue_says_when_the_next_job_leaves_it(
    settings: Settings, redis: Redis, worker: ScriptedWorker
) -> None:
    measured(redis, worker, seconds=45, slots=4)
    with running_api(settings, max_queued=2) as url:
        assert [submit(url).status_code for _ in range(2)] == [202, 202]
        for path in ("/generate", "/generate/stream", "/jobs"):
            response = httpx.post(url + path, json=BODY)
            assert refusal(response) == (503, "queue_full", 12)  # 45 / 4, in whole seconds
            assert response.json()["detail"] == "2 jobs wait already; no more are taken."
        assert redis.zcard(names.JOBS) == 2
        # A job that is known already is not one more.
        Ledger(redis, "w", [MODEL]).take()
        key = {"Idempotency-Key": "k"}
        assert httpx.post(f"{url}/jobs", json=BODY, headers=key).status_code == 202
        assert httpx.post(f"{url}/jobs", json=BODY, headers=key).status_code == 202


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, 1), (1, 1), (1.01, 2)])
def test_at_least_a_second_and_whole_ones(
    settings: Settings, redis: Redis, worker: ScriptedWorker, seconds: float, expected: int
) -> None:
    measured(redis, worker, seconds=seconds, slots=1)
    with running_api(settings, max_queued=1) as url:
        submit(url)
        assert refusal(submit(url)) == (503, "queue_full", expected)


def test_without_a_measured_pace_a_guess_is_better_than_nothing(settings: Settings) -> None:
    with running_api(settings, max_queued=2, max_in_flight=2) as url:
        submit(url)
        assert "estimate" not in first_event(url)
        assert refusal(submit(url)) == (503, "queue_full", 2)
    with running_api(settings, max_in_flight=2) as url:
        assert refusal(submit(url)) == (429, "too_many_in_flight", 2)


def test_one_client_s_jobs_are_bounded_and_another_s_are_not_touched(
    settings: Settings, redis: Redis, worker: ScriptedWorker
) -> None:
    measured(redis, worker, seconds=10, slots=1)
    with running_api(settings, max_in_flight=2) as url:
        assert [submit(url).status_code for _ in range(2)] == [202, 202]
        response = submit(url)
        assert refusal(response) == (429, "too_many_in_flight", 10)
        assert response.json()["detail"] == "2 of your jobs have not ended; no more are taken."
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as neighbour:
            assert neighbour.post(f"{url}/jobs", json=BODY).status_code == 202
        # Two take turns now, so each one's jobs end half as often.
        assert refusal(submit(url)) == (429, "too_many_in_flight", 20)


def test_a_job_that_has_ended_makes_room(settings: Settings, redis: Redis) -> None:
    with running_api(settings, max_in_flight=1) as url:
        submit(url)
        assert submit(url).status_code == 429
        with scripted_worker(redis, MODEL, words("a")):
            until(lambda: submit(url).status_code == 202, what="room")


def test_a_worker_for_other_models_does_not_count(settings: Settings, redis: Redis) -> None:
    measured(redis, ScriptedWorker(redis, "distilgpt2", words()), seconds=45, slots=4)
    with running_api(settings, max_queued=1) as url:
        submit(url)
        assert refusal(submit(url)) == (503, "queue_full", 2)


def first_event(url: str) -> dict[str, object]:
    with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
        events = read_sse(response)
        data: dict[str, object] = next(events).data
        return data


def test_those_who_wait_hear_how_the_queue_moves(
    settings: Settings, redis: Redis, worker: ScriptedWorker
) -> None:
    measured(redis, worker, seconds=6, slots=2)
    ledger = Ledger(redis, "other", [MODEL])
    with running_api(settings) as url:
        for _ in range(3):
            submit(url)
        with httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response:
            events = read_sse(response)
            told: list[Sse] = [next(events)]
            for _ in range(2):
                assert ledger.take() is not None
                told.append(next(events))
            with scripted_worker(redis, MODEL, words("a")):
                rest = list(events)
    assert [event.event for event in told] == ["queued"] * 3
    assert [event.id for event in told] == [1, None, None]
    assert [(event.data["position"], event.data["estimate"]) for event in told] == [
        (3, 9.0),
        (2, 6.0),
        (1, 3.0),
    ]
    assert {event.data["id"] for event in told} == {told[0].data["id"]}
    assert [event.id for event in rest if event.id] == [2, 3, 4]
    assert text_of(rest) == "a"


def test_whoever_comes_back_while_the_job_waits_hears_it_too(
    settings: Settings, redis: Redis
) -> None:
    with running_api(settings) as url:
        submit(url)
        made = submit(url).json()["id"]
        with httpx.stream("GET", f"{url}/jobs/{made}/events?after=1") as response:
            events = read_sse(response)
            assert Ledger(redis, "other", [MODEL]).take() is not None
            moved = next(events)
    assert (moved.event, moved.id, moved.data["position"]) == ("queued", None, 0)


def test_a_position_that_does_not_change_is_not_repeated(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOOK_SECONDS", 0.01)
    heard: list[str] = []
    with (
        running_api(settings, ping_seconds=0.1) as url,
        httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response,
    ):
        lines = response.iter_lines()
        while sum(line.startswith(": ping") for line in heard) < 5:
            heard.append(next(lines))
    assert heard.count("event: queued") == 1


def test_a_job_that_leaves_the_queue_unheard_is_noticed(settings: Settings, redis: Redis) -> None:
    """Nothing is announced: what a stream learns, it learns because the job waits no more."""
    with (
        running_api(settings) as url,
        httpx.stream("POST", f"{url}/generate/stream", json=BODY) as response,
    ):
        events = read_sse(response)
        job_id = next(events).data["id"]
        claim = Ledger(redis, "other", [MODEL]).take()
        assert claim is not None
        redis.xadd(
            names.events(job_id),
            {"event": b'{"type":"started","seq":2,"prompt_tokens":1}', "writer": "w", "end": "0"},
            id="2-0",
        )
        began = time.monotonic()
        assert next(events).event == "started"
        assert time.monotonic() - began < feed.SILENCE_SECONDS / 2


@pytest.fixture
def busy(redis: Redis, settings: Settings) -> Iterator[ScriptedWorker]:
    with scripted_worker(redis, MODEL, words("a", pause=0.01)) as worker:
        yield worker


def test_plain_text_and_whole_answers_know_nothing_of_the_queue(
    settings: Settings, busy: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOOK_SECONDS", 0.005)
    with running_api(settings) as url:
        for _ in range(20):
            submit(url)
        plain = {"Accept": "text/plain"}
        assert httpx.post(f"{url}/generate/stream", json=BODY, headers=plain).text == "a"
        for _ in range(20):
            submit(url)
        assert httpx.post(f"{url}/generate", json=BODY).json()["response"] == "a"
        assert text_of(stream(url, BODY)) == "a"
