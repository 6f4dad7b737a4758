"""Jobs that end before they are done, and failed ones that go on; the engine is fake."""

import time

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared import names
from shared.events import Cancelled, Failed, Queued
from shared.failed import put_back
from shared.job import GenerationRequest
from shared.queue import rq_queue
from shared.settings import Settings
from tests.support.checks import (
    assert_all_whole,
    assert_clean,
    assert_contiguous,
    assert_whole,
    assert_written,
    rows,
    wait_until_over,
)
from tests.support.jobs import MODEL, Submitter, ended, generation, ledger, log_of, text, under_way
from tests.support.poll import until
from tests.support.workers import crew

SLOW = "distilgpt2"


@pytest.fixture
def served(settings: Settings) -> Settings:
    return settings.model_copy(update={"slots": 1, "models": (MODEL, SLOW)})


@pytest.fixture
def queue(served: Settings) -> Submitter:
    return Submitter(served)


def assert_cancelled(redis: Redis, request: GenerationRequest, *, seconds: float = 20) -> None:
    log = ended(redis, request.id, seconds)
    assert_contiguous(log)
    assert isinstance(log[-1], Cancelled)


def long() -> GenerationRequest:
    return generation("x" * 3000, max_tokens=3000)


def test_what_is_cancelled_stops_at_once_and_keeps_what_it_has_said(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    running, next_one, waiting, behind = long(), generation("next"), long(), generation("behind")
    requests = [running, next_one, waiting, behind]
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        queue.submit(*requests)
        under_way(redis, [running])
        began = time.monotonic()
        assert queue.cancel(waiting.id)
        assert_cancelled(redis, waiting)
        assert text(log_of(redis, waiting.id)) == ""
        assert queue.cancel(running.id)
        assert queue.cancel(running.id)
        assert_cancelled(redis, running)
        assert time.monotonic() - began < 1
        wait_until_over(redis, requests)  # there is but one slot: it is free again
        assert not queue.cancel(running.id)
        assert not queue.cancel(next_one.id)
        for request in (next_one, behind):
            assert_whole(log_of(redis, request.id), request)
        assert_written(served, redis, *requests)
        assert_clean(redis, *requests)
    end = log_of(redis, running.id)[-1]
    assert isinstance(end, Cancelled)
    said = text(log_of(redis, running.id))
    assert 5 < len(said) == end.usage.completion_tokens < 3000
    row = rows(served)[running.id]
    assert (row.status, row.finish_reason, row.response) == ("cancelled", "cancelled", said)


def test_a_job_is_cancelled_while_its_model_is_loaded(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    request, other = generation(model=SLOW), generation("fine")
    with crew(served, load_seconds=3, hurried=True) as workers:
        workers.start_one()
        queue.submit(request)
        until(lambda: log_of(redis, request.id)[-1].name == "loading", what="loading")
        began = time.monotonic()
        assert queue.cancel(request.id)
        assert_cancelled(redis, request)
        queue.submit(other)
        assert_whole(ended(redis, other.id), other)
        assert time.monotonic() - began < 2  # not when the model is there
        wait_until_over(redis, [request, other])
        assert_written(served, redis, request, other)
        assert_clean(redis, request, other)


def test_a_wish_that_nobody_heard_is_granted(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """By a worker that comes later, or by the heir of one that died."""
    running, waiting = long(), generation("waiting")
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        worker = workers.start_one()
        queue.submit(running, waiting)
        under_way(redis, [running])
        worker.kill()
        assert queue.cancel(running.id)
        assert queue.cancel(waiting.id)
        redis.delete(names.CALLS, names.calls(worker.name))
        workers.start_one()
        workers.report(worker)
        assert_cancelled(redis, running)
        assert_cancelled(redis, waiting)
        wait_until_over(redis, [running, waiting])
        assert_written(served, redis, running, waiting)
        assert_clean(redis, running, waiting)
    assert len(text(log_of(redis, running.id))) > 5


def test_who_is_not_followed_is_cancelled_in_time(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        left_alone, background, followed = long(), generation("background"), generation("followed")
        waiting = generation("waits in vain")
        queue.submit(left_alone, attended_for=1)
        under_way(redis, [left_alone])
        queue.submit(waiting, attended_for=0)
        queue.submit(background, attended_for=None)
        queue.submit(followed, attended_for=60)
        for request in (left_alone, waiting):
            assert_cancelled(redis, request)
        for request in (background, followed):
            assert_whole(ended(redis, request.id), request)
        requests = [left_alone, waiting, background, followed]
        wait_until_over(redis, requests)
        assert_written(served, redis, *requests)
        assert_clean(redis, *requests)


def test_who_waits_too_long_ends_as_expired(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        running, late, patient = long(), generation("late"), generation("patient")
        queue.submit(running, ttl=0.5)
        under_way(redis, [running])
        queue.submit(late, ttl=0.5)
        queue.submit(patient, ttl=60)
        end = ended(redis, late.id)[-1]
        assert isinstance(end, Failed)
        assert end.code == "expired"
        assert not ledger(redis).overdue(time.time() + 30)  # also not what runs for longer
        queue.cancel(running.id)
        assert_whole(ended(redis, patient.id), patient)
        requests = [running, late, patient]
        wait_until_over(redis, requests)
        assert_written(served, redis, *requests)
        assert_clean(redis, *requests)
    row = rows(served)[late.id]
    assert (row.status, row.error, row.prompt_tokens) == ("failed", "expired", 0)


@pytest.mark.parametrize("by", ["minivault", "dashboard"])
def test_a_failed_job_that_is_put_back_goes_on_behind_its_failure(
    served: Settings, queue: Submitter, redis: Redis, by: str
) -> None:
    request = generation("what was wanted")
    queue.submit(request, ttl=-1)
    with crew(served, hurried=True) as workers:
        workers.start_one()
        wait_until_over(redis, [request])
        first = log_of(redis, request.id)
        assert isinstance(first[-1], Failed)
        rq = rq_queue(redis, MODEL)
        assert rq.failed_job_registry.get_job_ids() == [request.id]
        if by == "minivault":
            assert put_back(redis, request.id)
        else:
            rq.failed_job_registry.requeue(request.id)
        until(lambda: log_of(redis, request.id)[-1].name == "done", what="the second end")
        wait_until_over(redis, [request])
        log = log_of(redis, request.id)
        assert log[: len(first)] == first
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert isinstance(log[len(first)], Queued)
        assert text(log) == "what was wanted"
        assert_written(served, redis, request)
        assert_clean(redis, request)
        assert rq.failed_job_registry.get_job_ids() == []
        assert rq.fetch_job(request.id).get_status() == JobStatus.FINISHED
    row = rows(served)[request.id]
    assert (row.status, row.error, row.response) == ("done", None, "what was wanted")


def test_what_is_done_to_waiting_jobs_in_a_dashboard_is_done(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    running, deleted, cancelled, kept = long(), *(generation(f"{i}") for i in range(3))
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        queue.submit(running, deleted, cancelled, kept)
        under_way(redis, [running])
        Job.fetch(deleted.id, redis, JSONSerializer).delete()
        Job.fetch(cancelled.id, redis, JSONSerializer).cancel()
        stranger = rq_queue(redis, MODEL).enqueue("os.getpid")
        for request in (deleted, cancelled):
            assert_cancelled(redis, request)
        until(lambda: stranger.get_status(refresh=True) == JobStatus.FAILED, what="a refusal")
        assert "did not come through" in stranger.latest_result().exc_string
        queue.cancel(running.id)
        assert_whole(ended(redis, kept.id), kept)
        requests = [running, deleted, cancelled, kept]
        wait_until_over(redis, requests)
        assert_written(served, redis, *requests)
        assert rq_queue(redis, MODEL).job_ids == []
        assert redis.zcard(names.order(MODEL)) == 0


def test_an_emptied_queue_cancels_what_waited(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    running, *waiting = long(), *(generation(f"{i}") for i in range(40))
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        queue.submit(running, *waiting)
        under_way(redis, [running])
        rq_queue(redis, MODEL).empty()
        for request in waiting:
            assert_cancelled(redis, request)
        assert not isinstance(log_of(redis, running.id)[-1], Cancelled)
        last = generation("last")
        queue.submit(last)
        queue.cancel(running.id)
        assert_whole(ended(redis, last.id), last)
        wait_until_over(redis, [running, *waiting, last])
        assert_written(served, redis, running, *waiting, last)


def test_a_running_job_that_is_deleted_in_a_dashboard_runs_on(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """What runs is cancelled through MiniVault."""
    request = generation("x" * 150)
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        worker = workers.start_one()
        queue.submit(request)
        under_way(redis, [request])
        Job.fetch(request.id, redis, JSONSerializer).delete()
        after = generation("after")
        queue.submit(after)
        wait_until_over(redis, [request, after])
        for each in (request, after):
            assert_whole(log_of(redis, each.id), each)
        assert_written(served, redis, request, after)
        assert len(rq_queue(redis, MODEL).started_job_registry) == 0
        assert worker.process.poll() is None
    assert redis.ttl(Job.key_for(request.id)) != -1  # not left for ever


def test_a_running_job_that_is_queued_again_is_run_once(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """By RQ's own commands, of which some ask nobody."""
    request = generation("x" * 150)
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        queue.submit(request)
        under_way(redis, [request])
        rq = rq_queue(redis, MODEL)
        rq.push_job_id(request.id)
        until(lambda: rq.job_ids == [], what="its removal")
        assert_all_whole(served, redis, request)
    assert rq.fetch_job(request.id).get_status() == JobStatus.FINISHED
    assert rows(served)[request.id].attempts == 1


def test_a_job_in_no_state_is_found_and_goes_on(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """As when the server comes back without what it had not yet written to disk."""
    running, request = long(), generation("lost and found")
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        queue.submit(running)
        under_way(redis, [running])
        queue.submit(request)
        assert ledger(redis).seize(request.id, MODEL) is not None
        redis.hdel(names.CLAIMS, request.id)
        until(lambda: redis.zscore(names.order(MODEL), request.id) is not None, what="its return")
        queue.cancel(running.id)
        assert_whole(ended(redis, request.id), request)
        wait_until_over(redis, [running, request])
        assert_clean(redis, running, request)
