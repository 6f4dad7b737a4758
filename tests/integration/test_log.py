"""The event log against a real server."""

import pytest
from redis import Redis

from shared.events import Done, FinishReason, Timings, Token, Usage
from shared.log import EventLog

JOB = "job-test"


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
def log(redis: Redis) -> EventLog:
    return EventLog(redis, writer="first")


@pytest.fixture
def other(redis: Redis) -> EventLog:
    return EventLog(redis, writer="second")


def test_only_the_next_number_is_accepted(log: EventLog) -> None:
    assert log.append(JOB, token(1))
    assert not log.append(JOB, token(3))
    assert log.append(JOB, token(2))
    assert [event.seq for event in log.read(JOB)] == [1, 2]


def test_another_writer_of_the_same_number_is_fenced_off(log: EventLog, other: EventLog) -> None:
    assert log.append(JOB, token(1))
    assert not other.append(JOB, token(1))


def test_a_repeated_append_is_accepted_and_stored_once(log: EventLog) -> None:
    assert log.append(JOB, token(1))
    assert log.append(JOB, token(1))
    assert log.read(JOB) == [token(1)]


def test_nothing_follows_the_end(log: EventLog, other: EventLog) -> None:
    assert log.append(JOB, done(1))
    assert log.append(JOB, done(1))
    assert not log.append(JOB, token(2))
    assert not other.append(JOB, token(2))


def test_an_expired_log_can_not_be_continued(log: EventLog, redis: Redis) -> None:
    log.append(JOB, token(1))
    redis.flushall()
    assert not log.append(JOB, token(2))


def test_a_batch_reports_each_append(log: EventLog, other: EventLog) -> None:
    other.append("job-b", token(1))
    assert log.append_all([("job-a", token(1)), ("job-b", token(1)), ("job-a", token(2))]) == [
        True,
        False,
        True,
    ]


def test_what_is_accepted_is_announced(log: EventLog, redis: Redis) -> None:
    with redis.pubsub() as pubsub:
        pubsub.subscribe(f"minivault:live:{JOB}")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        log.append(JOB, token(1))
        log.append(JOB, token(5))
        log.append(JOB, token(2))
        heard = [pubsub.get_message(timeout=5)["data"] for _ in range(2)]
        assert [b'"seq":1' in heard[0], b'"seq":2' in heard[1]] == [True, True]
        assert pubsub.get_message(timeout=0.1) is None


def test_read_begins_after_a_number(log: EventLog) -> None:
    for seq in range(1, 5):
        log.append(JOB, token(seq))
    assert [event.seq for event in log.read(JOB, after=2)] == [3, 4]
    assert log.read(JOB, after=4) == []
