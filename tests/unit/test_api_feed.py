"""Events come out once and in order, whatever happens to the messages."""

import asyncio
from collections.abc import Callable

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st

from api import feed as feed_module
from api.errors import StoppingError
from api.feed import Feed
from api.inbox import Inbox
from shared.errors import JobNotFoundError, RedisUnavailableError
from shared.events import AnyEvent, Done, FinishReason, Queued, Timings, Token, Usage

SILENCE = 0.002


def events_up_to(last: int) -> list[AnyEvent]:
    tokens = [Token(seq=seq, ids=(seq,), text=str(seq)) for seq in range(2, last)]
    done = Done(
        seq=last,
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=1, completion_tokens=len(tokens)),
        timings=Timings(queue=0, prefill=0, decode=0, total=0),
    )
    return [Queued(seq=1, id="job-x", model="m", position=0), *tokens, done]


class FakeLog:
    """A log that grows, and fails when told to."""

    def __init__(self, events: list[AnyEvent], length: int) -> None:
        self.events = events
        self.length = length
        self.failures = 0
        self.reads = 0
        self.exists = True

    async def read(self, after: int) -> list[AnyEvent] | None:
        self.reads += 1
        if self.failures > 0:
            self.failures -= 1
            raise redis.exceptions.ConnectionError
        return self.events[after : self.length] if self.exists else None


async def collect(feed: Feed) -> list[int]:
    return [event.seq async for event in feed]


def feed_of(
    log: FakeLog, inbox: Inbox, after: int = 0, stopping: Callable[[], bool] = lambda: False
) -> Feed:
    return Feed(log.read, inbox, after=after, stopping=stopping, silence=SILENCE)


# None: an event is appended. A number: a message of an appended event arrives, perhaps again,
# perhaps late. True: the connection marks a gap. False: the log fails once.
STEP = st.none() | st.integers(0, 40) | st.booleans()


@given(steps=st.lists(STEP, max_size=120), last=st.integers(2, 40), after=st.integers(0, 39))
def test_any_mixture_of_lost_repeated_and_reordered_messages(
    steps: list[int | bool | None], last: int, after: int
) -> None:
    events = events_up_to(last)
    after = min(after, last - 1)

    async def scenario() -> list[int]:
        log = FakeLog(events, length=1)
        inbox = Inbox()
        heard = asyncio.create_task(collect(feed_of(log, inbox, after)))
        for step in steps:
            if step is None:
                log.length = min(log.length + 1, last)
            elif step is True:
                inbox.mark_gap()
            elif step is False:
                log.failures += 1
            else:
                inbox.put(events[step % log.length])
            await asyncio.sleep(0)
        log.length = last
        return await asyncio.wait_for(heard, timeout=10)

    assert asyncio.run(scenario()) == list(range(after + 1, last + 1))


async def test_messages_in_order_need_no_log() -> None:
    events = events_up_to(50)
    log = FakeLog(events, length=1)
    inbox = Inbox()
    for event in events:
        inbox.put(event)
    feed = Feed(log.read, inbox, after=0, silence=60)
    assert await collect(feed) == list(range(1, 51))
    assert log.reads == 1


async def test_a_flood_is_served_from_the_log() -> None:
    events = events_up_to(5 * Inbox.CAPACITY)
    log = FakeLog(events, length=len(events))
    inbox = Inbox()
    for event in events:
        inbox.put(event)
    assert await collect(feed_of(log, inbox)) == list(range(1, len(events) + 1))


async def test_a_log_that_is_gone_ends_the_feed() -> None:
    log = FakeLog(events_up_to(9), length=3)
    feed = aiter(feed_of(log, Inbox()))
    assert [(await anext(feed)).seq for _ in range(3)] == [1, 2, 3]
    log.exists = False
    with pytest.raises(JobNotFoundError):
        await anext(feed)


async def test_redis_may_be_away_for_a_while() -> None:
    log = FakeLog(events_up_to(4), length=4)
    log.failures = 5
    assert await collect(feed_of(log, Inbox())) == [1, 2, 3, 4]


async def test_redis_may_not_be_away_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "PATIENCE_SECONDS", 0.05)
    log = FakeLog(events_up_to(4), length=4)
    log.failures = 10**9
    with pytest.raises(RedisUnavailableError):
        await asyncio.wait_for(collect(feed_of(log, Inbox())), timeout=10)


async def test_a_long_stream_is_as_patient_as_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "PATIENCE_SECONDS", 0.05)
    log = FakeLog(events_up_to(3), length=1)
    inbox = Inbox()
    feed = aiter(Feed(log.read, inbox, after=0, silence=60))
    assert (await anext(feed)).seq == 1
    await asyncio.sleep(0.1)  # longer than patience lasts, with no need of the log
    inbox.put(log.events[1])
    assert (await anext(feed)).seq == 2
    log.failures = 1
    log.length = 3
    inbox.mark_gap()
    inbox.put(log.events[1])
    inbox.put(log.events[2])
    assert (await anext(feed)).seq == 3


async def test_a_stopping_process_ends_its_feeds() -> None:
    log = FakeLog(events_up_to(9), length=3)
    with pytest.raises(StoppingError):
        await collect(feed_of(log, Inbox(), stopping=lambda: True))
