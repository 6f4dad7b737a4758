"""The event log against a real server."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from shared import log, names
from shared.claim import Claim
from shared.errors import DecodeError, JobNotFoundError
from shared.events import AnyEvent, Done, FinishReason, Queued, Started, Timings, Token, Usage
from shared.ledger import Ledger
from shared.log import Append, EventLog
from shared.redis import connect_async
from shared.settings import Settings
from tests.support.jobs import MODEL, Submitter, append, generation, ledger, log_of


def token(seq: int, text: str = "hi") -> Token:
    return Token(seq=seq, ids=(7,), text=text)


def done(seq: int) -> Done:
    return Done(
        seq=seq,
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        timings=Timings(queue=0, prefill=0, decode=0, total=0),
    )


@pytest.fixture
def claimed(settings: Settings, redis: Redis) -> Claim:
    """A job that was taken; `queued` is in its log."""
    Submitter(settings).submit(generation())
    claim = ledger(redis).take()
    assert claim is not None
    return claim


@pytest.fixture
async def asynchronous(settings: Settings) -> AsyncIterator[AsyncRedis]:
    async with connect_async(settings, "test") as client:
        yield client


def test_only_the_next_number_is_accepted(claimed: Claim, redis: Redis) -> None:
    assert append(redis, claimed, token(2), token(4), token(3), token(1)) == [
        True,
        False,
        True,
        False,
    ]
    assert [event.seq for event in log_of(redis, claimed.job_id)] == [1, 2, 3]


def test_only_the_owner_appends(claimed: Claim, redis: Redis) -> None:
    assert append(redis, claimed, token(2)) == [True]
    for owner in ("other/1", "test/2", "", "test"):
        assert append(redis, claimed._replace(owner=owner), token(2), token(3)) == [False, False]
    redis.hdel(names.CLAIMS, claimed.job_id)
    assert append(redis, claimed, token(2), token(3)) == [False, False]
    assert len(log_of(redis, claimed.job_id)) == 2


def test_a_new_claim_makes_the_old_one_worthless(claimed: Claim, redis: Redis) -> None:
    assert append(redis, claimed, token(2)) == [True]
    new = ledger(redis, "other").seize(claimed.job_id, MODEL, expected=claimed.owner)
    assert new is not None
    assert append(redis, claimed, token(2), token(3)) == [False, False]
    assert append(redis, new, token(2)) == [False]  # another's event is not taken for its own
    assert append(redis, new, token(3)) == [True]


def test_a_repeated_append_is_accepted_and_stored_once(claimed: Claim, redis: Redis) -> None:
    batch = [token(2), token(3), done(4)]
    assert append(redis, claimed, *batch) == [True] * 3
    assert append(redis, claimed, *batch) == [True] * 3
    assert log_of(redis, claimed.job_id)[1:] == batch
    assert append(redis, claimed, token(3, "different")) == [False]


def test_nothing_follows_the_end(claimed: Claim, redis: Redis) -> None:
    assert append(redis, claimed, done(2), token(3), done(3)) == [True, False, False]


def test_an_expired_log_can_not_be_continued(claimed: Claim, redis: Redis) -> None:
    assert append(redis, claimed, token(2)) == [True]
    redis.delete(names.events(claimed.job_id))
    assert append(redis, claimed, token(3)) == [False]


def test_a_batch_reports_each_append(settings: Settings, redis: Redis) -> None:
    Submitter(settings).submit(generation(), generation())
    book: Ledger = ledger(redis)
    mine, other = book.take(), book.take()
    assert mine is not None
    assert other is not None
    batch: list[tuple[Claim, AnyEvent]] = [
        (mine, token(2)),
        (other._replace(owner=mine.owner), token(2)),
        (other, token(2)),
        (mine, token(3)),
    ]
    replies = EventLog(redis).append_all(
        [Append(claim.job_id, claim.owner, event) for claim, event in batch]
    )
    assert replies == [True, False, True, True]


def test_what_is_accepted_is_announced_and_nothing_else(claimed: Claim, redis: Redis) -> None:
    with redis.pubsub() as pubsub:
        pubsub.subscribe(names.channel(claimed.job_id))
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        append(redis, claimed, token(2), token(5), token(2), token(3))
        heard = [pubsub.get_message(timeout=5)["data"] for _ in range(2)]
        assert [b'"seq":2' in heard[0], b'"seq":3' in heard[1]] == [True, True]
        assert pubsub.get_message(timeout=0.1) is None


def test_a_job_is_its_log(settings: Settings, redis: Redis) -> None:
    request = generation("caf\u00e9 \U0001f642", priority=3, client="10.0.0.9", background=True)
    Submitter(settings).submit(request)
    claim = ledger(redis).take()
    assert claim is not None
    started = Started(seq=2, prompt_tokens=1)
    append(redis, claim, started, token(3, "\U0001f642"))
    queued = Queued(seq=1, id=request.id, model=MODEL, position=0)
    assert EventLog(redis).read_job(request.id) == (
        request,
        [queued, started, token(3, "\U0001f642")],
    )


def test_a_log_that_is_none_is_told(redis: Redis) -> None:
    with pytest.raises(JobNotFoundError):
        EventLog(redis).read_job("job-none")
    redis.xadd(names.events("job-old"), {"event": '{"type":"queued"}', "request": "{}"})
    with pytest.raises(DecodeError):
        EventLog(redis).read_job("job-old")


async def test_a_reader_begins_after_a_number(
    claimed: Claim, redis: Redis, asynchronous: AsyncRedis
) -> None:
    append(redis, claimed, token(2), token(3), token(4))
    job_id = claimed.job_id
    assert [event.seq for event in await log.read(asynchronous, job_id, after=2)] == [3, 4]
    assert [event.seq for event in await log.read(asynchronous, job_id)] == [1, 2, 3, 4]
    assert await log.read(asynchronous, job_id, after=4) == []
    assert await log.exists(asynchronous, job_id)
    assert not await log.exists(asynchronous, "job-none")


def test_threads_that_append_at_once_get_replies_of_their_own(claimed: Claim, redis: Redis) -> None:
    log = EventLog(redis)
    appends = [Append(claimed.job_id, claimed.owner, token(seq)) for seq in range(2, 40)]
    assert log.append_all(appends) == [True] * 38
    with ThreadPoolExecutor(4) as threads:
        sizes = [1 + number % 38 for number in range(200)]
        replies = threads.map(lambda size: log.append_all(appends[:size]), sizes)
        assert list(replies) == [[True] * size for size in sizes]


def test_a_server_that_was_away_takes_the_next_append(claimed: Claim, redis: Redis) -> None:
    log = EventLog(redis)
    assert log.append_all([Append(claimed.job_id, claimed.owner, token(2))]) == [True]
    redis.client_kill_filter(_type="normal", skipme=False)
    assert log.append_all([Append(claimed.job_id, claimed.owner, token(3))]) == [True]
    assert [event.seq for event in log_of(redis, claimed.job_id)] == [1, 2, 3]
