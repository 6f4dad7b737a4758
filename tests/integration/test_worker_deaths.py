"""Workers that die, freeze or are killed by what they compute; the engine is fake."""

import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from rq.worker import BaseWorker
from rq.worker_registration import clean_worker_registry

from shared import names
from shared.claim import worker_of
from shared.events import Cancelled, Done, Failed, Resumed
from shared.job import GenerationRequest
from shared.queue import rq_queue
from shared.settings import Settings
from tests.support.checks import (
    assert_all_whole,
    assert_clean,
    assert_idle,
    assert_whole,
    assert_written,
    rows,
    wait_until_over,
)
from tests.support.jobs import (
    MODEL,
    Submitter,
    ended,
    generation,
    ledger,
    log_of,
    sampled,
    streams,
    under_way,
)
from tests.support.poll import until
from tests.support.traps import DEADLY_TO_DECODE, DEADLY_TO_PREFILL, DEADLY_TO_TOKENIZE, Trap
from tests.support.workers import Crew, WorkerProcess, crew


@pytest.fixture
def served(settings: Settings) -> Settings:
    return settings.model_copy(update={"slots": 8})


@pytest.fixture
def queue(served: Settings) -> Submitter:
    return Submitter(served)


def owned_by(redis: Redis, worker: WorkerProcess) -> set[str]:
    owners = ledger(redis).owners()
    return {job_id for job_id, owner in owners.items() if worker_of(owner) == worker.name}


def resumptions(redis: Redis, request: GenerationRequest) -> list[int]:
    return [event.attempt for event in log_of(redis, request.id) if isinstance(event, Resumed)]


def test_a_death_that_is_told_is_a_short_pause(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    requests = streams(12)
    with crew(served, step_seconds=0.005, hurried=True) as workers:
        first, second = workers.start(2)
        queue.submit(*requests)
        under_way(redis, requests)
        victims = owned_by(redis, first)
        assert 0 < len(victims) < 12
        first.kill()
        killed_at = time.monotonic()
        workers.report(first)
        for request in requests:
            if request.id in victims:
                until(lambda request=request: resumptions(redis, request), what="the resumption")
        assert time.monotonic() - killed_at < 2
        assert_all_whole(served, redis, *requests)
        assert_idle(redis, second.name)
        until(
            lambda: [worker.name for worker in BaseWorker.all(connection=redis)] == [second.name],
            what="the end of the dead in RQ's list of workers",
        )
    stored = rows(served)
    for request in requests:
        died = request.id in victims
        assert resumptions(redis, request) == ([2] if died else [])
        assert stored[request.id].attempts == (2 if died else 1)


def test_a_death_that_nobody_tells_is_noticed(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """By a worker that was started after all others had died."""
    requests = streams(12)
    with crew(served, step_seconds=0.005) as workers:
        dying = workers.start(2)
        queue.submit(*requests)
        under_way(redis, requests)
        for worker in dying:
            worker.kill()
        killed_at = time.monotonic()
        workers.start_one()
        until(lambda: resumptions(redis, requests[0]), seconds=20, what="the resumption")
        assert time.monotonic() - killed_at < 15
        assert_all_whole(served, redis, *requests)
    assert all(resumptions(redis, request) == [2] for request in requests)


def test_a_death_that_only_a_successor_can_hear_of(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    request = generation("x" * 100)
    with crew(served, step_seconds=0.005) as workers:
        only = workers.start_one()
        queue.submit(request)
        under_way(redis, [request])
        only.kill()
        workers.report(only)
        workers.start_one()
        # Silence it would hold against nobody for 5 s.
        until(lambda: resumptions(redis, request), seconds=4, what="the resumption")
        assert_all_whole(served, redis, request)


def test_a_frozen_worker_that_wakes_is_fenced_off_and_works_on(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    served = served.model_copy(update={"slots": 4})
    requests = streams(6, length=150)
    with crew(served, step_seconds=0.02, hurried=True) as workers:
        frozen, other = workers.start(2)
        queue.submit(*requests)
        under_way(redis, requests)
        victims = owned_by(redis, frozen)
        frozen.freeze()
        waiting = [request for request in requests if request.id in victims]
        # One at a time gets a slot of the other: wake it in the middle of a continuation.
        until(
            lambda: any(resumptions(redis, request) for request in waiting),
            seconds=25,
            what="a resumption",
        )
        frozen.thaw()
        more = streams(8, length=30)
        queue.submit(*more)
        until(lambda: owned_by(redis, frozen) & {r.id for r in more}, what="new jobs for it")
        assert_all_whole(served, redis, *requests, *more)
        assert_idle(redis, frozen.name, other.name)
    for request in requests:
        assert resumptions(redis, request) == ([2] if request.id in victims else [])


def deaths_until(
    workers: Crew, worker: WorkerProcess, over: Callable[[], bool], *, at_most: int
) -> int:
    """Restart a worker whenever it dies, as a supervisor does."""
    deaths = 0

    def probe() -> bool:
        nonlocal worker, deaths
        if worker.process.poll() is not None:
            deaths += 1
            assert deaths <= at_most
            workers.report(worker)
            worker = workers.start_one()
        return over()

    until(probe, seconds=40, what="the end of it")
    return deaths


@pytest.mark.parametrize("prompt", [DEADLY_TO_TOKENIZE, DEADLY_TO_PREFILL, DEADLY_TO_DECODE])
def test_a_job_that_kills_its_worker_three_times_fails_alone(
    served: Settings, queue: Submitter, redis: Redis, prompt: str
) -> None:
    running, beside, behind = streams(4, 300), streams(6, 50), streams(8, 20)
    deadly = generation(prompt)
    with crew(served, step_seconds=0.003, hurried=True) as workers:
        worker = workers.start_one()
        queue.submit(*running)
        under_way(redis, running)
        queue.submit(*beside[:3], deadly, *beside[3:], *behind)
        innocent = [*running, *beside, *behind]
        deaths = deaths_until(workers, worker, lambda: redis.zcard(names.JOBS) == 0, at_most=6)
        for request in innocent:
            assert_whole(log_of(redis, request.id), request)
        assert_written(served, redis, *innocent, deadly)
        assert_clean(redis, *innocent, deadly)
    # On a busy machine a death may come before what was decoded is in the log. The attempt that
    # brings it there has got further, and is not to blame.
    assert deaths >= 3 if prompt == DEADLY_TO_DECODE else deaths == 3
    failed = ended(redis, deadly.id)[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "worker_lost"
    assert "died three times" in failed.message
    assert rq_queue(redis, MODEL).failed_job_registry.get_job_ids() == [deadly.id]
    row = rows(served)[deadly.id]
    assert (row.status, row.error) == ("failed", "worker_lost")


def test_workers_that_are_killed_all_day_fail_no_job(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """Jobs that get further each time are not to blame."""
    requests = streams(4, 300)
    with crew(served, step_seconds=0.005, hurried=True) as workers:
        worker = workers.start_one()
        queue.submit(*requests)
        for round_number in range(1, 4):
            under_way(redis, requests, characters=40 * round_number)
            worker.kill()
            workers.report(worker)
            worker = workers.start_one()
        assert_all_whole(served, redis, *requests)
    assert all(resumptions(redis, request) == [2, 3, 4] for request in requests)


def test_a_claim_whose_reply_was_lost_is_put_back_by_its_owner(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    served = served.model_copy(update={"slots": 1})
    running, lost = generation("x" * 300), generation("lost")
    with crew(served, step_seconds=0.005, hurried=True) as workers:
        worker = workers.start_one()
        queue.submit(running)
        under_way(redis, [running])
        queue.submit(lost)
        book = ledger(redis, worker.name)
        book._numbers = itertools.count(1_000_000)  # none that the worker itself has given
        claim = book.take()
        assert claim is not None
        assert claim.job_id == lost.id
        until(lambda: claim.owner not in book.owners().values(), what="the end of the claim")
        assert_all_whole(served, redis, running, lost)
    done = ended(redis, lost.id)[-1]
    assert isinstance(done, Done)
    assert resumptions(redis, lost) == []


def test_a_job_is_given_up_and_taken_up_again(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    """A claim that is taken away and comes back to the same worker is another claim."""
    served = served.model_copy(update={"slots": 1})  # so that it needs the one it had
    request = generation("y" * 150)
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        worker = workers.start_one()
        queue.submit(request)
        under_way(redis, [request])
        other = ledger(redis, "other")
        claim = other.seize(request.id, MODEL, expected=ledger(redis).owners()[request.id])
        assert claim is not None
        assert other.put_back(claim, request.created_at)
        until(lambda: owned_by(redis, worker) == {request.id}, what="the second claim")
        wait_until_over(redis, [request], 20)
        assert_all_whole(served, redis, request)
        assert_idle(redis, worker.name)
    assert resumptions(redis, request) == [2]


def test_a_worker_that_wakes_before_it_saves_spoils_no_row(
    served: Settings, queue: Submitter, redis: Redis, tmp_path: Path
) -> None:
    """Its row would be that of an attempt that does not count."""
    request, trap = sampled("say", length=50, seed=1), Trap(tmp_path)
    with crew(served, hurried=True) as workers:
        frozen = workers.start_one(**trap.environment)
        trap.set("before save", signal.SIGSTOP)
        queue.submit(request)
        until(lambda: trap.has_sprung, what="the frozen worker")
        other = workers.start_one()
        wait_until_over(redis, [request])
        frozen.thaw()
        other.kill()
        after = generation("after")  # who ends this one is done with the other
        queue.submit(after)
        assert_all_whole(served, redis, request, after)
    assert rows(served)[request.id].attempts == 2


def test_a_worker_that_wakes_before_it_saves_a_job_that_was_cancelled(
    served: Settings, queue: Submitter, redis: Redis, tmp_path: Path
) -> None:
    """Its row would be of the same attempt: the job was not begun again in order to end."""
    request, trap = generation("to the end"), Trap(tmp_path)
    with crew(served, hurried=True) as workers:
        frozen = workers.start_one(**trap.environment)
        trap.set("before save", signal.SIGSTOP)
        queue.submit(request)
        until(lambda: trap.has_sprung, what="the frozen worker")
        ledger(redis).give_up(request.id)
        other = workers.start_one()
        wait_until_over(redis, [request])
        assert isinstance(log_of(redis, request.id)[-1], Cancelled)
        frozen.thaw()
        other.kill()
        after = generation("after")  # who ends this one is done with the other
        queue.submit(after)
        wait_until_over(redis, [after])
    assert_written(served, redis, request, after)


def test_a_worker_that_wakes_is_on_rqs_lists_again(served: Settings, redis: Redis) -> None:
    """What stands still for long is struck off by RQ's own cleaning, and by ours."""
    with crew(served, hurried=True) as workers:
        frozen = workers.start_one()
        frozen.freeze()
        key = BaseWorker.redis_worker_namespace_prefix + frozen.name
        redis.delete(key)  # as it expires after a while
        clean_worker_registry(rq_queue(redis, MODEL))
        assert BaseWorker.all(connection=redis) == []
        frozen.thaw()
        assert_idle(redis, frozen.name)
        assert BaseWorker.all_keys(connection=redis) == [key]
