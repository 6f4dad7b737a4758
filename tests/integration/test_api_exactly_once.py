"""Each event once and in order, over the real scripts, log, relay, feed and inbox.

What varies is everything around them: which messages arrive, how often and in what order, when
the reader reconnects, and who of two writers holds the claim, thinks so, or repeats itself.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from api import relay as relay_module
from api.attendance import Attendance
from api.feed import Feed
from api.inbox import Inbox
from api.pace import Pace
from api.relay import Admission, Relay
from shared import events, log, names
from shared.events import AnyEvent, Done, FinishReason, Token
from shared.job import GenerationRequest, SamplingParams, new_job_id, now
from shared.ledger import Claim, Ledger
from shared.log import Append, EventLog
from shared.queue import JobQueue, Limits
from shared.redis import connect, connect_async
from shared.settings import Settings
from tests.support.poll import until_async
from tests.support.scripted_worker import TIMINGS, USAGE

SILENCE = 0.005


class Wire:
    """In place of `Subscriptions`: hands out inboxes and delivers only what it is told to."""

    def __init__(self) -> None:
        self.inbox = Inbox()

    @asynccontextmanager
    async def subscribe(self, _: str) -> AsyncIterator[Inbox]:
        self.inbox = Inbox()
        yield self.inbox


class Writer:
    """A worker that goes by what it knows: its claim, if any, and the last number it has seen."""

    def __init__(self, redis: Redis, name: str, settings: Settings) -> None:
        self._log = EventLog(redis)
        self._ledger = Ledger(redis, name, settings.models)
        self._model = settings.default_model
        self._name = name
        self._said = 0
        self._claim: Claim | None = None
        self._last = 0
        self._sent: Append | None = None

    @property
    def claim(self) -> Claim | None:
        return self._claim

    def seize(self, job_id: str, holder: Claim | None) -> None:
        """Take the job from its holder, as a sweep does, and read what there is."""
        expected = holder.owner if holder else ""
        self._claim = self._ledger.seize(job_id, self._model, expected=expected)
        assert self._claim is not None
        self._last = self._log.read_job(job_id)[1][-1].seq

    def say(self) -> bool:
        self._said += 1
        text = f"{self._name}{self._said} "  # never what the other one would say
        return self._append(Token(seq=self._last + 1, ids=(self._said,), text=text))

    def end(self) -> bool:
        end = Done(
            seq=self._last + 1, finish_reason=FinishReason.STOP, usage=USAGE, timings=TIMINGS
        )
        return self._append(end)

    def repeat(self) -> bool:
        """The reply was lost."""
        return self._sent is not None and self._log.append_all([self._sent]) == [True]

    def _append(self, event: AnyEvent) -> bool:
        if self._claim is None:
            return False
        self._sent = Append(self._claim.job_id, self._claim.owner, event)
        (accepted,) = self._log.append_all([self._sent])
        self._last += accepted
        return accepted


class Reader:
    """A client that follows the job and comes back with the last number it has."""

    def __init__(self, relay: Relay, job_id: str) -> None:
        self._relay = relay
        self._job_id = job_id
        self.heard: list[AnyEvent] = []
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        after = self.heard[-1].seq if self.heard else 0
        async with self._relay.resume(self._job_id, after) as feed:
            if feed is not None:
                async for event in feed:
                    self.heard.append(event)

    async def reconnect(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = asyncio.create_task(self._follow())

    async def catch_up(self, seq: int) -> None:
        async def caught_up() -> bool:
            return bool(self.heard) and self.heard[-1].seq == seq

        await until_async(caught_up, what="the reader's being up to date")

    async def finish(self) -> None:
        await asyncio.wait_for(self._task, timeout=20)


WRITER = st.integers(0, 1)
STEP = st.one_of(
    st.tuples(st.just("say"), WRITER),
    st.tuples(st.just("say"), WRITER),
    st.tuples(st.just("repeat"), WRITER),
    st.tuples(st.just("seize"), WRITER),
    st.tuples(st.just("deliver"), st.integers(0, 30)),  # any message: early, late, again
    st.tuples(st.just("deliver"), st.just(-1)),  # the newest: what usually happens
    st.tuples(st.just("gap"), st.just(0)),
    st.tuples(st.just("reconnect"), st.just(0)),
    st.tuples(st.just("pass"), st.integers(0, 3)),  # ms
    st.tuples(st.just("settle"), st.just(0)),
)


@pytest.fixture(scope="module")
def server(session_settings: Settings) -> Iterator[Settings]:
    with connect(session_settings, "test") as redis:
        redis.flushall()
        yield session_settings


@hypothesis_settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEP, min_size=20, max_size=60))
def test_every_event_is_delivered_once_and_in_order(
    server: Settings, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(relay_module, "Feed", functools.partial(Feed, silence=SILENCE))
    asyncio.run(scenario(server, steps))


async def scenario(settings: Settings, steps: list[tuple[str, int]]) -> None:
    job_id = new_job_id()
    with connect(settings, "test") as redis, redis.pubsub() as pubsub:
        pubsub.subscribe(names.channel(job_id))
        assert pubsub.get_message(timeout=5) is not None  # the acknowledgement
        async with connect_async(settings, "test") as client:
            wire = Wire()
            relay = make_relay(settings, client, redis, wire)
            assert await relay.enqueue(admission(settings, job_id)) == job_id
            reader = Reader(relay, job_id)
            writers = [Writer(redis, name, settings) for name in ("a", "b")]
            holder: Claim | None = None
            published: list[AnyEvent] = []

            def hear() -> None:
                """Whatever the scripts have published by now."""
                while len(published) < redis.xlen(names.events(job_id)):
                    message = pubsub.get_message(timeout=5)
                    assert message is not None
                    published.append(events.decode(message["data"]))

            for kind, number in steps:
                match kind:
                    case "say":
                        said = writers[number].say()
                        assert said == (holder is not None and writers[number].claim == holder)
                    case "repeat":
                        writers[number].repeat()
                    case "seize":
                        writers[number].seize(job_id, holder)
                        holder = writers[number].claim
                    case "deliver":
                        hear()
                        wire.inbox.put(published[number % len(published)])
                    case "gap":
                        wire.inbox.mark_gap()
                    case "reconnect":
                        await reader.reconnect()
                    case "pass":
                        await asyncio.sleep(number / 1000)
                    case _:
                        await reader.catch_up(redis.xlen(names.events(job_id)))
            writers[0].seize(job_id, holder)
            assert writers[0].end()
            assert not writers[1].say()
            await reader.finish()
            hear()
            in_the_log = await log.read(client, job_id)
    assert reader.heard == in_the_log == published
    assert [event.seq for event in reader.heard] == list(range(1, len(in_the_log) + 1))


def make_relay(settings: Settings, client: object, redis: Redis, wire: Wire) -> Relay:
    feeds: set[Feed] = set()
    return Relay(
        client,
        wire,
        JobQueue(client, settings.models, result_ttl=60, rq_redis=redis),
        Limits(max_queued=10_000, max_in_flight=10_000),
        feeds=feeds,
        attendance=Attendance(client, feeds, grace=30),
        pace=Pace(client),
    )


def admission(settings: Settings, job_id: str) -> Admission:
    request = GenerationRequest(
        id=job_id,
        model=settings.default_model,
        prompt="x",
        params=SamplingParams(max_tokens=8, temperature=0, seed=0),
        client=job_id,
        created_at=now(),
    )
    return Admission(request, deadline=now() + 60, idempotency=None)
