"""Worker processes between a real Valkey, real RQ and a real database; the engine is fake."""

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest
from redis import Redis
from rq.worker import BaseWorker

from shared import names
from shared.events import AnyEvent, Done, Failed, Loading, Queued, Resumed, Started
from shared.queue import rq_queue, workers
from shared.settings import Settings
from shared.store import Store
from tests.support.jobs import MODEL, Submitter, ended, generation, ledger, log_of, text
from tests.support.poll import until
from tests.support.workers import BROKEN_MODEL, fake_worker, live_pids

OTHER = "distilgpt2"


@pytest.fixture
def three_models(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"models": (MODEL, OTHER, BROKEN_MODEL), "slots": 4, "shutdown_grace": 1.0}
    )


@pytest.fixture
def queue(three_models: Settings) -> Submitter:
    return Submitter(three_models)


@pytest.fixture
def worker(three_models: Settings) -> Iterator[subprocess.Popen[bytes]]:
    with fake_worker(three_models) as processes:
        yield processes[0]


@pytest.mark.usefixtures("worker")
def test_a_job_from_queue_to_row(queue: Submitter, redis: Redis, settings: Settings) -> None:
    request = generation("What is it?", request_id="req-1", client="10.0.0.9")
    queue.submit(request)
    log = ended(redis, request.id)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert isinstance(log[0], Queued)
    assert isinstance(log[1], Started)
    assert text(log) == "What is it?"
    done = log[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.usage.prompt_tokens, done.usage.completion_tokens) == (
        "stop",
        11,
        11,
    )
    row = next(r for r in Store.open(settings).recent(1000) if r.id == request.id)
    assert (row.response, row.status, row.attempts) == ("What is it?", "done", 1)
    assert (row.request_id, row.client) == ("req-1", "10.0.0.9")
    assert json.loads(row.parameters)["max_tokens"] == 1000
    rq = rq_queue(redis, MODEL)
    until(lambda: request.id in rq.finished_job_registry, what="RQ's finished registry")
    assert request.id not in rq.started_job_registry
    until(lambda: redis.ttl(names.events(request.id)) > 0, what="the log's time to live")


@pytest.mark.usefixtures("worker")
def test_a_worker_that_rq_forgot_half_is_known_again(redis: Redis) -> None:
    """Its entry has expired, and another thread of it has written a field since."""
    (name,) = workers(redis)
    entry = f"rq:worker:{name}"
    before = redis.hgetall(entry)
    redis.delete(entry)
    redis.hset(entry, "state", "idle")
    redis.srem("rq:workers", entry)
    until(lambda: redis.hexists(entry, "birth"), what="its birth")
    after = redis.hgetall(entry)
    same = {b"birth", b"queues", b"pid", b"hostname", b"version", b"python_version"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert redis.sismember("rq:workers", entry)


@pytest.mark.usefixtures("worker")
def test_echo_puts_the_prompt_first(queue: Submitter, redis: Redis) -> None:
    request = generation("again ", echo=True)
    queue.submit(request)
    assert text(ended(redis, request.id)) == "again again "


@pytest.mark.usefixtures("worker")
def test_a_model_is_loaded_when_it_is_wanted(queue: Submitter, redis: Redis) -> None:
    request = generation("other", model=OTHER)
    queue.submit(request)
    log = ended(redis, request.id)
    assert [type(event) for event in log[:3]] == [Queued, Loading, Started]
    until(lambda: OTHER in next(iter(workers(redis).values())).loaded, what="the loaded model")


@pytest.mark.usefixtures("worker")
def test_a_model_that_can_not_be_loaded_fails_its_jobs_alone(
    queue: Submitter, redis: Redis, settings: Settings
) -> None:
    broken, fine = generation(model=BROKEN_MODEL), generation("fine")
    queue.submit(broken)
    queue.submit(fine)
    failed = ended(redis, broken.id)[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message) == ("model_unavailable", "the weights are torn")
    assert text(ended(redis, fine.id)) == "fine"
    rq = rq_queue(redis, BROKEN_MODEL)
    until(lambda: broken.id in rq.failed_job_registry, what="RQ's failed registry")
    result = rq.fetch_job(broken.id).latest_result()
    assert "the weights are torn" in result.exc_string
    row = next(r for r in Store.open(settings).recent(1000) if r.id == broken.id)
    assert (row.status, row.error) == ("failed", "model_unavailable")


def test_what_can_not_be_run_fails_with_its_reason(
    three_models: Settings, queue: Submitter, redis: Redis
) -> None:
    unreadable, lost = generation(), generation()
    queue.submit(unreadable, lost)
    redis.delete(names.events(unreadable.id), names.events(lost.id))
    entry = {"event": '{"type":"queued"}', "request": "{}"}
    redis.xadd(names.events(unreadable.id), entry, id="1-0")
    rq = rq_queue(redis, MODEL)
    with fake_worker(three_models):
        for job_id, reason in ((unreadable.id, "not a generation job"), (lost.id, "no event log")):
            until(
                lambda job_id=job_id: job_id in rq.failed_job_registry, what="the failed registry"
            )
            assert reason in rq.fetch_job(job_id).latest_result().exc_string
    assert redis.zcard(names.JOBS) == redis.hlen(names.CLAIMS) == 0


def test_no_more_jobs_are_taken_than_there_are_slots(
    three_models: Settings, queue: Submitter, redis: Redis
) -> None:
    with fake_worker(three_models, step_seconds=0.02):
        requests = [generation("x" * 400) for _ in range(10)]
        for request in requests:
            queue.submit(request)
        rq = rq_queue(redis, MODEL)
        until(lambda: len(rq.started_job_registry) == 4, what="four started jobs")
        (worker,) = BaseWorker.all(connection=redis)
        assert worker.get_state() == "busy"
        assert worker.current_execution_count == 4
        assert rq_queue(redis, MODEL).count == 6
        assert all(str(request.id) not in _descriptions(redis) for request in requests)


def _descriptions(redis: Redis) -> str:
    rq = rq_queue(redis, MODEL)
    return " ".join(str(rq.fetch_job(job_id).description) for job_id in rq.job_ids)


def test_sigterm_finishes_what_fits_and_hands_back_the_rest(
    three_models: Settings, queue: Submitter, redis: Redis, settings: Settings
) -> None:
    short, long = generation("short" * 4), generation("abcdefghij" * 50)
    with fake_worker(three_models, step_seconds=0.01) as (process,):
        queue.submit(short)
        queue.submit(long)
        until(lambda: len(text(log_of(redis, long.id))) > 10, what="some tokens")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert text(ended(redis, short.id)) == "short" * 4
    half = text(log_of(redis, long.id))
    assert 10 < len(half) < 500
    assert rq_queue(redis, MODEL).count == 1
    assert BaseWorker.all(connection=redis) == []
    assert live_pids(redis) == set()

    with fake_worker(three_models):
        log = ended(redis, long.id)
    assert text(log) == "abcdefghij" * 50
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [event for event in log if isinstance(event, Resumed)] == [
        Resumed(seq=_seq_of(log, Resumed), attempt=2)
    ]
    row = next(r for r in Store.open(settings).recent(1000) if r.id == long.id)
    assert (row.response, row.attempts) == ("abcdefghij" * 50, 2)
    assert row.completion_tokens == 500


def _seq_of(log: list[AnyEvent], kind: type) -> int:
    return next(event.seq for event in log if isinstance(event, kind))


def test_a_worker_lets_a_job_go_that_is_not_its_own_any_more(
    three_models: Settings, queue: Submitter, redis: Redis
) -> None:
    with fake_worker(three_models, step_seconds=0.01):
        request = generation("x" * 300)
        queue.submit(request)
        until(lambda: len(text(log_of(redis, request.id))) > 10, what="some tokens")
        owner = redis.hget(names.CLAIMS, request.id).decode()
        assert ledger(redis).seize(request.id, MODEL, expected=owner)
        length = len(log_of(redis, request.id))
        rq = rq_queue(redis, MODEL)
        until(lambda: len(rq.started_job_registry) == 0, what="the given up execution")
        other = generation("next")
        queue.submit(other)
        assert text(ended(redis, other.id)) == "next"
        assert len(log_of(redis, request.id)) == length


def test_two_hundred_jobs_over_two_workers_leave_two_hundred_rows(
    three_models: Settings, queue: Submitter, redis: Redis, settings: Settings
) -> None:
    with fake_worker(three_models, count=2):
        requests = [generation(f"prompt number {i}") for i in range(200)]
        for request in requests:
            queue.submit(request)
        logs = {request.id: ended(redis, request.id, seconds=60) for request in requests}
        rq = rq_queue(redis, MODEL)
        until(lambda: len(rq.finished_job_registry) == 200, what="RQ's finished registry")
        assert len(rq.started_job_registry) == 0
        assert redis.llen(rq.intermediate_queue_key) == 0
    rows = [row for row in Store.open(settings).recent(10_000) if row.id in logs]
    assert len(rows) == 200
    assert {row.id: row.response for row in rows} == {i: text(log) for i, log in logs.items()}
