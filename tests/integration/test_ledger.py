"""Each step of a job from one state to the next, by the real scripts on a real server."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared import log, names
from shared.allotment import Allotment, day_of, seconds_to_next_day
from shared.claim import Claim
from shared.ending import Ending
from shared.errors import (
    DailyTokensError,
    IdempotencyConflictError,
    QueueFullError,
    TooManyInFlightError,
)
from shared.events import Queued
from shared.failed import put_back
from shared.job import GenerationRequest
from shared.ledger import report_death
from shared.log import EventLog
from shared.queue import Idempotency, rq_queue, workers
from shared.settings import Settings
from tests.support.books import failure, left, listed, prompts, take_all, taken
from tests.support.jobs import MODEL, Submitter, append, generation, ledger, let_go, log_of
from tests.support.poll import until


@pytest.fixture
def queue(settings: Settings) -> Submitter:
    return Submitter(settings)


# Submission


def test_what_is_submitted_waits(queue: Submitter, redis: Redis) -> None:
    first, second = prompts("first", "second")
    assert queue.submit(first, second, seconds_per_job=1.5) == [first.id, second.id]
    assert log_of(redis, first.id) == [
        Queued(seq=1, id=first.id, model=MODEL, position=0, estimate=0)
    ]
    assert log_of(redis, second.id) == [
        Queued(seq=1, id=second.id, model=MODEL, position=1, estimate=1.5)
    ]
    assert listed(redis) == [first.id, second.id]
    job = Job.fetch(first.id, connection=redis, serializer=JSONSerializer)
    assert (job.get_status(), job.origin) == (JobStatus.QUEUED, rq_queue(redis, MODEL).name)
    assert "first" not in str(redis.hgetall(Job.key_for(first.id)))


def test_nothing_of_a_refused_job_is_left(queue: Submitter, redis: Redis) -> None:
    queue.submit(*prompts("a", "b", client="full"))
    before = sorted(redis.keys("*"))
    with pytest.raises(QueueFullError, match="2 jobs wait"):
        queue.submit(generation("c", client="other"), max_queued=2)
    with pytest.raises(TooManyInFlightError, match="2 of your jobs"):
        queue.submit(generation("d", client="full"), max_in_flight=2)
    assert sorted(redis.keys("*")) == before
    queue.submit(generation("e", client="other"), max_in_flight=2, max_queued=3)


def test_running_jobs_are_in_flight_and_ended_ones_are_not(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a", client="me")
    queue.submit(request)
    claim = taken(redis, request)
    with pytest.raises(TooManyInFlightError):
        queue.submit(generation("b", client="me"), max_in_flight=1)
    append(redis, claim, failure(2))
    assert let_go(ledger(redis), claim, request, saved=True, log_ttl=60)
    queue.submit(generation("c", client="me"), max_in_flight=1)


def test_a_key_stands_for_one_request(queue: Submitter, redis: Redis) -> None:
    first, again, other, stranger = (
        generation(client=client) for client in ("me", "me", "me", "you")
    )
    key = Idempotency("key", "fingerprint")
    assert queue.submit(first, idempotency=key) == [first.id]
    # Also where nothing more would be accepted.
    assert queue.submit(again, idempotency=key, max_queued=1, max_in_flight=1) == [first.id]
    with pytest.raises(IdempotencyConflictError):
        queue.submit(other, idempotency=Idempotency("key", "another"))
    assert queue.submit(stranger, idempotency=key) == [stranger.id]
    assert listed(redis) == [first.id, stranger.id]
    assert log_of(redis, again.id) == log_of(redis, other.id) == []


def test_a_submission_is_sent_again_where_its_reply_was_lost(
    queue: Submitter, redis: Redis
) -> None:
    (request,) = prompts("a")
    for _ in range(2):
        assert queue.submit(request, max_in_flight=1) == [request.id]
    assert listed(redis) == [request.id]
    assert len(log_of(redis, request.id)) == 1


# Claims


def test_a_job_is_taken_once(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    claim = taken(redis, request)
    assert claim._replace(entries=()) == Claim(request.id, MODEL, "test/1")
    assert log.taken(claim) == EventLog(redis).read_job(request.id)
    assert ledger(redis, "other").take() is None
    assert listed(redis) == []
    assert ledger(redis).owners() == {request.id: "test/1"}
    assert ledger(redis).overdue(float("inf")) == []


def test_who_waits_is_given_the_job_that_comes(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    waiting = ledger(redis, "waiting")
    assert waiting.wait_and_take(1, [MODEL]) is None  # nobody has told the server the script
    assert waiting.take() is None
    with ThreadPoolExecutor(1) as thread:
        claimed = thread.submit(waiting.wait_and_take, 10, [MODEL])
        until(lambda: redis.info("clients")["blocked_clients"] == 1, what="a worker that waits")
        queue.submit(request)
        claim = claimed.result()
    assert claim is not None
    assert log.taken(claim) == EventLog(redis).read_job(request.id)
    assert ledger(redis).owners() == {request.id: claim.owner}
    assert waiting.wait_and_take(1, [MODEL]) is None


def test_a_claim_says_what_waits_behind_it(queue: Submitter, redis: Redis) -> None:
    queue.submit(*prompts("a", "b", "c"))
    assert [claim.behind for claim in take_all(ledger(redis))] == [2, 1, 0]


def test_who_is_woken_for_another_model_takes_nothing(settings: Settings, redis: Redis) -> None:
    waiting = ledger(redis, "waiting")
    assert waiting.take(["other"]) is None  # the server knows the script
    redis.rpush(names.wake(MODEL), 1)
    assert waiting.wait_and_take(10, ["other", MODEL]) is None


def test_a_claim_is_seized_from_whom_it_was_seen_with(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    first, second = ledger(redis, "first"), ledger(redis, "second")
    claim = first.take()
    assert claim is not None
    for expected in ("", "first/2", "second/1"):
        assert second.seize(request.id, MODEL, expected=expected) is None
    seized = second.seize(request.id, MODEL, expected=claim.owner)
    assert seized is not None
    assert not first.put_back(claim, request.created_at)
    assert not let_go(first, claim, request, saved=True, log_ttl=60)
    assert second.owners() == {request.id: seized.owner}


def test_one_of_two_sweeps_seizes(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    seized = [ledger(redis, name).seize(request.id, MODEL) for name in ("first", "second")]
    assert [claim is not None for claim in seized] == [True, False]
    assert listed(redis) == []
    assert ledger(redis).overdue(float("inf")) == []
    assert ledger(redis).take() is None


def test_what_is_over_is_not_seized(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    claim = taken(redis, request)
    append(redis, claim, failure(2))
    assert let_go(ledger(redis), claim, request, saved=True, log_ttl=60)
    redis.sadd(names.CANCELS, request.id)  # came too late
    assert ledger(redis).seize(request.id, MODEL) is None
    assert ledger(redis).to_cancel() == set()


def test_what_was_put_back_comes_first_and_the_oldest_before_all(
    queue: Submitter, redis: Redis
) -> None:
    requests = prompts("a", "b", "c", "d")
    requests = [
        generation(request.prompt, created_at=1000 + number)
        for number, request in enumerate(requests)
    ]
    queue.submit(*requests)
    book = ledger(redis)
    claims = [book.take() for _ in range(3)]
    for number in (2, 0, 1):
        claim = claims[number]
        assert claim is not None
        assert book.put_back(claim, requests[number].created_at)
    urgent = generation("urgent", priority=9)
    queue.submit(urgent)
    expected = [request.id for request in (*requests[:3], urgent, requests[3])]
    assert [claim.job_id for claim in take_all(book)] == expected
    assert listed(redis) == []


def test_what_was_put_back_is_not_overdue(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    assert ledger(redis).overdue(float("inf")) == [request.id]
    assert ledger(redis).put_back(taken(redis, request), request.created_at)
    assert ledger(redis).overdue(float("inf")) == []
    assert Job.fetch(request.id, redis, JSONSerializer).get_status() == JobStatus.QUEUED


def test_what_was_taken_out_of_rq_by_hand_is_not_run(queue: Submitter, redis: Redis) -> None:
    out, deleted, kept = prompts("out", "deleted", "kept")
    queue.submit(out, deleted, kept)
    rq_queue(redis, MODEL).remove(out.id)
    Job.fetch(deleted.id, redis, JSONSerializer).delete()
    assert [claim.job_id for claim in take_all(ledger(redis))] == [kept.id]
    for request in (out, deleted):
        assert ledger(redis).seize(request.id, MODEL) is not None


# A key's tokens of a day


def account(redis: Redis, request: GenerationRequest) -> dict[str, int]:
    found = redis.hgetall(names.tokens("k", day_of(request.created_at)))
    return {name.decode(): int(value) for name, value in found.items()}


def owned(prompt: str) -> GenerationRequest:
    return generation(prompt, key="k", client=names.of_key("k"))


def test_tokens_are_set_aside_up_to_the_limit(queue: Submitter, redis: Redis) -> None:
    first, second, third = owned("a"), owned("b"), owned("c")
    queue.submit(first, second, allotment=Allotment(100, 40))
    before = sorted(redis.keys("*"))
    with pytest.raises(DailyTokensError, match="20 tokens are left") as refused:
        queue.submit(third, allotment=Allotment(100, 40))
    assert refused.value.retry_after == pytest.approx(seconds_to_next_day(third.created_at), abs=1)
    assert sorted(redis.keys("*")) == before
    assert account(redis, first) == {"total": 80, first.id: 40, second.id: 40}
    queue.submit(third, allotment=Allotment(100, 20))
    assert account(redis, first)["total"] == 100


def test_a_job_that_is_known_already_sets_nothing_aside(queue: Submitter, redis: Redis) -> None:
    name = Idempotency("name", "print")
    for _ in range(3):
        queue.submit(owned("a"), idempotency=name, allotment=Allotment(100, 40))
    assert account(redis, owned("a"))["total"] == 40


def test_what_was_set_aside_is_settled_once(queue: Submitter, redis: Redis) -> None:
    """However often the job is ended: its reply is lost, or its row could not be written."""
    request = owned("a")
    queue.submit(request, allotment=Allotment(100, 40))
    claim = taken(redis, request)
    append(redis, claim, failure(2))
    book = ledger(redis)
    assert let_go(book, claim, request, saved=False, log_ttl=60, used=15)
    assert account(redis, request) == {"total": 15}
    again = book.seize(request.id, MODEL)
    assert again is not None
    for _ in range(2):
        assert let_go(book, again, request, saved=True, log_ttl=60, used=15)
    assert account(redis, request) == {"total": 15}


def test_jobs_that_end_together_are_let_go_each_for_itself(queue: Submitter, redis: Redis) -> None:
    """And what goes along is written with them."""
    running, lost, ended = prompts("running", "lost", "ended")
    queue.submit(running, lost, ended)
    claims = take_all(book := ledger(redis))
    for claim in claims[1:]:
        append(redis, claim, failure(2))
    assert ledger(redis, "second").seize(lost.id, MODEL, expected=claims[1].owner) is not None
    endings = [
        Ending(claim, request, saved=True, log_ttl=60)
        for claim, request in zip(claims, (running, lost, ended), strict=True)
    ]
    done = book.finish(endings, along=lambda pipe: pipe.set("along", 1))
    assert done == [False, False, True]
    assert set(book.owners()) == {running.id, lost.id}
    assert redis.get("along") == b"1"


def test_a_stale_worker_settles_nothing(queue: Submitter, redis: Redis) -> None:
    request = owned("a")
    queue.submit(request, allotment=Allotment(100, 40))
    stale = taken(redis, request)
    successor = ledger(redis, "second").seize(request.id, MODEL, expected=stale.owner)
    assert successor is not None
    append(redis, successor, failure(2))
    assert not let_go(ledger(redis), stale, request, saved=True, log_ttl=60, used=99)
    assert account(redis, request)["total"] == 40
    assert let_go(ledger(redis, "second"), successor, request, saved=True, log_ttl=60, used=15)
    assert account(redis, request) == {"total": 15}


def test_a_day_that_is_forgotten_does_not_come_back(queue: Submitter, redis: Redis) -> None:
    request = owned("a")
    queue.submit(request, allotment=Allotment(100, 40))
    redis.delete(names.tokens("k", day_of(request.created_at)))
    claim = taken(redis, request)
    append(redis, claim, failure(2))
    assert let_go(ledger(redis), claim, request, saved=True, log_ttl=60, used=15)
    assert account(redis, request) == {}


# The end


def test_an_ended_job_leaves_what_expires_and_nothing_else(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a", client="me")
    queue.submit(request, attended_for=60)
    assert queue.cancel(request.id)
    ledger(redis).strike(request.id, "w/1", 0)
    redis.delete(names.CALLS)
    claim = taken(redis, request)
    append(redis, claim, failure(2))
    book = ledger(redis)
    assert let_go(book, claim, request, saved=True, log_ttl=60, seconds=2)
    assert left(redis) <= {
        names.clock(MODEL),
        names.turns(MODEL),
        names.wake(MODEL),
        names.PACE,
    }
    assert 0 < redis.ttl(names.events(request.id)) <= 60
    assert redis.ttl(names.ended(request.id)) > 24 * 3600
    assert float(redis.hget(names.PACE, MODEL)) == 2
    assert let_go(book, claim, request, saved=True, log_ttl=60, seconds=2)  # a lost reply
    assert not queue.cancel(request.id)


def test_a_job_whose_log_has_lost_its_end_is_not_over(queue: Submitter, redis: Redis) -> None:
    """As when the server comes back without its last second."""
    (request,) = prompts("a")
    queue.submit(request)
    claim = taken(redis, request)
    assert not let_go(ledger(redis), claim, request, saved=True, log_ttl=60)
    redis.delete(names.events(request.id))
    assert not let_go(ledger(redis), claim, request, saved=True, log_ttl=60)
    assert ledger(redis).owners() == {request.id: claim.owner}


def test_an_unsaved_job_keeps_its_log_until_it_is_saved(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a", client="me")
    queue.submit(request)
    claim = taken(redis, request)
    append(redis, claim, failure(2))
    book = ledger(redis)
    assert let_go(book, claim, request, saved=False, log_ttl=60)
    assert book.unsaved(10) == [request.id]
    assert redis.ttl(names.events(request.id)) == -1
    assert not redis.exists(names.ended(request.id), names.in_flight("me"))
    assert not queue.cancel(request.id)
    assert not put_back(redis, request.id)  # its row is yet to be written
    again = book.seize(request.id, MODEL)
    assert again is not None
    assert let_go(book, again, request, saved=True, log_ttl=60)
    assert book.unsaved(10) == []
    assert redis.ttl(names.events(request.id)) > 0


def test_the_pace_is_a_moving_average(queue: Submitter, redis: Redis) -> None:
    requests = prompts("a", "b")
    queue.submit(*requests)
    for request, seconds in zip(requests, (10, 20), strict=True):
        claim = taken(redis, request)
        append(redis, claim, failure(2))
        assert let_go(ledger(redis), claim, request, saved=True, log_ttl=60, seconds=seconds)
    assert float(redis.hget(names.PACE, MODEL)) == pytest.approx(11)


# Strikes


def test_deaths_count_until_a_job_gets_further(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    book = ledger(redis)
    assert taken(redis, request).strikes == 0
    assert [book.strike(request.id, "w/1", tokens) for tokens in (0, 5, 5, 7, 7)] == [1, 1, 2, 1, 2]


def test_a_suspect_is_struck_for_what_it_was_accused_of(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    book = ledger(redis)
    for owner in ("w/1", "w/2"):
        book.strike(request.id, owner, 3)
    claim = book.take()
    assert claim is not None
    assert claim.strikes == 2
    assert book.strike(request.id, claim.owner, 3) == 2  # waited its turn
    book.accuse(claim, 3)
    assert book.strike(request.id, "another/1", 3) == 2
    book.accuse(claim, 3)
    assert book.strike(request.id, claim.owner, 3) == 3
    book.accuse(claim, 3)
    assert book.strike(request.id, claim.owner, 4) == 1  # it got further all the same


# Wishes and news


def test_a_wish_to_cancel_calls_who_can_grant_it(queue: Submitter, redis: Redis) -> None:
    waiting, running = prompts("waiting", "running")
    queue.submit(running)
    taken(redis, running)
    queue.submit(waiting)
    for request in (waiting, waiting, running, running):
        assert queue.cancel(request.id)
    assert ledger(redis).to_cancel() == {waiting.id, running.id}
    assert redis.lrange(names.CALLS, 0, -1) == [waiting.id.encode()]
    assert redis.lrange(names.calls("test"), 0, -1) == [running.id.encode()]
    assert 0 < redis.ttl(names.CALLS) <= 60
    assert 0 < redis.ttl(names.calls("test")) <= 60
    assert not queue.cancel("job-none")


def test_a_death_that_is_told_ends_a_life_at_once(redis: Redis) -> None:
    redis.set(names.worker_info("gone"), "{}")
    report_death(redis, "gone")
    assert not redis.exists(names.worker_info("gone"))
    assert workers(redis) == {}
    assert 0 < redis.ttl(names.death("gone")) <= 60


@pytest.mark.parametrize("skew", [-86_400, 86_400])
def test_a_host_whose_clock_is_wrong_ends_nothing(
    queue: Submitter, redis: Redis, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0 + skew)
    (request,) = prompts("hello")
    queue.submit(request, ttl=60, attended_for=60)
    monkeypatch.undo()
    book = ledger(redis)
    assert book.overdue(book.time()) == book.unattended(book.time()) == []
    assert book.overdue(book.time() + 61) == book.unattended(book.time() + 61) == [request.id]
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0 - skew)
    claim = book.take()
    assert claim is not None
    assert claim.job_id == request.id


def test_who_is_unattended_is_given_up_once(queue: Submitter, redis: Redis) -> None:
    followed, background, left_alone = prompts("followed", "background", "left alone")
    queue.submit(followed, attended_for=60)
    queue.submit(background, attended_for=None)
    queue.submit(left_alone, attended_for=-1)
    book = ledger(redis)
    assert book.unattended(book.time()) == [left_alone.id]
    book.give_up(left_alone.id)
    assert book.unattended(book.time()) == []
    assert book.to_cancel() == {left_alone.id}


def test_a_job_in_no_state_is_a_stray(queue: Submitter, redis: Redis) -> None:
    lost, _, running, unsaved = requests = prompts("lost", "waiting", "running", "unsaved")
    queue.submit(*requests)
    book = ledger(redis)
    for request in (lost, running, unsaved):
        assert book.seize(request.id, MODEL) is not None
    redis.hdel(names.CLAIMS, lost.id)
    redis.hdel(names.CLAIMS, unsaved.id)
    redis.sadd(names.UNSAVED, unsaved.id)
    assert book.stray() == [lost.id]
    assert book.seize(lost.id, MODEL) is not None
    book.forget(lost.id)
    assert redis.zscore(names.JOBS, lost.id) is None
    assert {running.id} == set(book.owners())


# Failed jobs


def test_a_failed_job_goes_on_behind_its_failure(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a", client="me")
    queue.submit(request)
    claim = taken(redis, request)
    append(redis, claim, failure(2))
    assert not put_back(redis, request.id)  # is not over yet
    assert let_go(ledger(redis), claim, request, saved=True, log_ttl=60)
    queue.submit(generation("another"))
    with redis.pubsub() as pubsub:
        pubsub.subscribe(names.channel(request.id))
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        assert put_back(redis, request.id)
        assert b'"seq":3' in pubsub.get_message(timeout=5)["data"]
    assert not put_back(redis, request.id)
    assert log_of(redis, request.id)[2:] == [Queued(seq=3, id=request.id, model=MODEL, position=0)]
    assert redis.ttl(names.events(request.id)) == redis.ttl(Job.key_for(request.id)) == -1
    assert not redis.exists(names.ended(request.id))
    assert redis.scard(names.in_flight("me")) == 1
    again = taken(redis, request)  # in front of the other
    assert append(redis, again, failure(4)) == [True]


def test_what_has_not_failed_is_not_put_back(queue: Submitter, redis: Redis) -> None:
    (request,) = prompts("a")
    queue.submit(request)
    assert not put_back(redis, request.id)
    assert not put_back(redis, "job-none")
    taken(redis, request)
    assert not put_back(redis, request.id)
    assert ledger(redis).owners() == {request.id: "test/1"}
