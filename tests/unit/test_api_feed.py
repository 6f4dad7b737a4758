"""Events come out once and in order, whatever happens to the messages."""

import asyncio
from collections.abc import Callable

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st

from api import feed as feed_module
from api.errors import StoppingError
from api.feed import PAGE, Feed
from api.inbox import Inbox
from shared.errors import JobExpiredError, RedisUnavailableError
from shared.events import (
    AnyEvent,
    Done,
    Failed,
    FinishReason,
    Queued,
    Started,
    Timings,
    Token,
    Usage,
)

SILENCE = 0.002
USAGE = Usage(prompt_tokens=1, completion_tokens=1)
TIMINGS = Timings(queue=0, prefill=0, decode=0, total=0)


def events_up_to(last: int) -> list[AnyEvent]:
    tokens = [Token(seq=seq, ids=(seq,), text=str(seq)) for seq in range(2, last)]
    done = Done(
        seq=last,
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=1, completion_tokens=len(tokens)),
        timings=TIMINGS,
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

    async def read(self, after: int) -> list[AnyEvent]:
        self.reads += 1
        if self.failures > 0:
            self.failures -= 1
            raise redis.exceptions.ConnectionError
        if not self.exists:
            raise JobExpiredError
        return self.events[after : min(self.length, after + PAGE)]


async def collect(feed: Feed) -> list[int]:
    return [event.seq async for event in feed]


def feed_of(
    log: FakeLog, inbox: Inbox, after: int = 0, stopping: Callable[[], bool] = lambda: False
) -> Feed:
    return Feed("job-x", log.read, inbox, after=after, stopping=stopping, silence=SILENCE)


# None: an event is appended. A number: a message of an appended event arrives, perhaps again,
# perhaps late. True: the connection marks a gap. False: the log fails once.
STEP = st.none() | st.integers(0, 40) | st.booleans()


@given(
    steps=st.lists(STEP, max_size=120),
    last=st.integers(2, 40),
    after=st.integers(0, 39),
    short=st.lists(st.booleans()),
)
def test_any_mixture_of_lost_repeated_and_reordered_messages(
    steps: list[int | bool | None], last: int, after: int, short: list[bool]
) -> None:
    """`short`: whether a token that may go the short way can."""
    events = events_up_to(last)
    after = min(after, last - 1)
    ways = iter(short)

    async def scenario() -> list[int]:
        log = FakeLog(events, length=1)
        inbox = Inbox()
        feed = feed_of(log, inbox, after)
        passed_on: list[int] = []

        def write(token: Token) -> bool:
            if can := next(ways, False):
                passed_on.append(token.seq)
            return can

        async def follow() -> list[int]:
            async for event in feed:
                passed_on.append(event.seq)  # noqa: PERF401 (`write` appends between)
            return passed_on

        feed.shorten(write)
        heard = asyncio.create_task(follow())
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


@pytest.mark.parametrize(("heard_from", "reads"), [(0, 0), (1, 1)])
async def test_messages_in_order_need_no_log(heard_from: int, reads: int) -> None:
    """But where the first was missed, or may have been."""
    events = events_up_to(50)
    log = FakeLog(events, length=1)
    inbox = Inbox()
    for event in events[heard_from:]:
        inbox.put(event)
    feed = Feed("job-x", log.read, inbox, after=0, silence=60)
    assert await collect(feed) == list(range(1, 51))
    assert log.reads == reads


async def test_a_token_that_is_waited_for_goes_the_short_way() -> None:
    """All else, what comes before it and what can't be written now goes the other."""
    events = events_up_to(9)
    log = FakeLog(events, length=1)
    inbox = Inbox()
    feed = Feed("job-x", log.read, inbox, after=0, silence=60)
    written: list[AnyEvent] = []
    can = True

    def write(token: Token) -> bool:
        if can:
            written.append(token)
        return can

    feed.shorten(write)
    batches = aiter(feed.batches())
    assert await anext(batches) == events[:1]
    inbox.put(events[1])
    assert not written  # nobody waits
    assert await anext(batches) == events[1:2]

    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    inbox.put(events[2])
    inbox.put(events[3])
    assert written == events[2:4]
    assert feed.last == 4
    can = False
    inbox.put(events[4])
    inbox.put(events[5])
    can = True
    inbox.put(events[6])
    assert await waiting == events[4:7]

    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    inbox.put(events[8])  # the end, and one token is missing before it
    log.length = 9
    assert await waiting == events[7:9]
    assert written == events[2:4]
    inbox.close()
    inbox.put(events[2])


async def test_what_goes_the_short_way_is_no_silence() -> None:
    events = events_up_to(40)
    log = FakeLog(events, length=1)
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    feed = Feed("job-x", log.read, inbox, after=0, silence=0.2)
    feed.shorten(lambda _: True)
    heard = asyncio.create_task(collect(feed))
    ends = loop.time() + 0.5  # longer than a silence
    for event in events[1:-1]:
        await asyncio.sleep(0.015)
        inbox.put(event)
    assert loop.time() > ends
    assert log.reads == 1
    inbox.put(events[-1])
    assert await heard == [1, 40]


async def test_what_has_come_is_passed_on_together() -> None:
    events = events_up_to(9)
    log = FakeLog(events, length=1)
    inbox = Inbox()
    feed = Feed("job-x", log.read, inbox, after=0, silence=60)
    batches = aiter(feed.batches())
    assert await anext(batches) == events[:1]
    for event in [*events[:3], events[2], *events[3:6]]:  # one that is known, and one twice
        inbox.put(event)
    assert await anext(batches) == events[1:6]
    assert (feed.last, log.reads) == (6, 1)
    for event in (events[6], events[8]):  # and one is lost
        inbox.put(event)
    log.length = 9
    assert await anext(batches) == events[6:9]
    assert log.reads == 2


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
    with pytest.raises(JobExpiredError):
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
    feed = aiter(Feed("job-x", log.read, inbox, after=0, silence=60))
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


def failed(seq: int) -> AnyEvent:
    return Failed(seq=seq, code="worker_lost", message="", usage=USAGE, timings=TIMINGS)


def queued(seq: int, position: int = 0) -> Queued:
    return Queued(seq=seq, id="job-x", model="m", position=position)


async def test_a_failure_ends_a_feed_only_if_nothing_follows_it() -> None:
    put_back: list[AnyEvent] = [queued(1), failed(2), queued(3), *events_up_to(6)[3:]]
    log = FakeLog(put_back, length=6)
    assert await collect(feed_of(log, Inbox())) == [1, 2, 3, 4, 5, 6]
    log.length = 2
    assert await collect(feed_of(log, Inbox())) == [1, 2]


@pytest.mark.parametrize("last", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 1])
async def test_a_long_log_is_read_page_by_page(last: int) -> None:
    log = FakeLog(events_up_to(last), length=last)
    feed = Feed("job-x", log.read, Inbox(), after=0, silence=60)  # waits for no silence
    async with asyncio.timeout(10):
        assert await collect(feed) == list(range(1, last + 1))
    assert log.reads == last // PAGE + 1


async def test_a_failure_at_the_end_of_a_page_is_not_taken_for_the_end() -> None:
    events = [*events_up_to(PAGE)[:-1], failed(PAGE), queued(PAGE + 1), failed(PAGE + 2)]
    log = FakeLog(events, length=len(events))
    assert await collect(feed_of(log, Inbox())) == list(range(1, PAGE + 3))


async def test_remarks_are_passed_on_while_the_job_waits_and_dropped_behind() -> None:
    log = FakeLog([queued(1, position=2), Started(seq=2, prompt_tokens=1)], length=1)
    inbox = Inbox()
    feed = Feed("job-x", log.read, inbox, after=0, silence=60)
    events = aiter(feed)
    assert await anext(events) == queued(1, position=2)
    assert feed.waiting == queued(1, position=2)
    inbox.put(queued(0, position=1))
    assert await anext(events) == queued(0, position=1)
    assert feed.waiting == queued(1, position=2)
    inbox.put(log.events[1])
    inbox.put(queued(0, position=0))
    inbox.put(Token(seq=3, ids=(), text=""))
    assert [(await anext(events)).seq for _ in range(2)] == [2, 3]
    assert feed.waiting is None


async def test_remarks_do_not_keep_a_feed_from_looking_into_the_log() -> None:
    log = FakeLog(events_up_to(3), length=1)
    inbox = Inbox()
    feed = Feed("job-x", log.read, inbox, after=0, silence=0.005)

    async def remark() -> None:
        while True:
            inbox.put(queued(0))
            await asyncio.sleep(0.001)

    remarks = asyncio.create_task(remark())
    events = aiter(feed)
    assert (await anext(events)).seq == 1
    log.length = 3
    async with asyncio.timeout(10):
        assert [event.seq async for event in events if event.seq] == [2, 3]
    remarks.cancel()


async def test_a_feed_resumed_in_the_queue_knows_that_it_waits() -> None:
    log = FakeLog(events_up_to(3), length=1)
    feed = Feed("job-x", log.read, Inbox(), after=1, latest=log.events[0], silence=SILENCE)
    assert feed.waiting == log.events[0]
    log.length = 3
    assert await collect(feed) == [2, 3]


async def test_any_trouble_with_redis_is_an_outage() -> None:
    log = FakeLog(events_up_to(2), length=2)

    async def read(after: int) -> list[AnyEvent]:
        if log.reads < 3:
            log.reads += 1
            raise redis.exceptions.ReadOnlyError
        return await log.read(after)

    assert await collect(Feed("job-x", read, Inbox(), after=0, silence=SILENCE)) == [1, 2]
