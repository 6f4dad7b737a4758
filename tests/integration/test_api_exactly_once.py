"""Each event once and in order, over the real scripts, log, relay, feed and inbox.

What varies is everything around them: which messages arrive, how often and in what order, when
the reader reconnects, and who of two writers holds the claim, thinks so, or repeats itself.
"""

import asyncio
import functools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis
from redis.client import PubSub

from api import relay as relay_module
from api.attendance import Attendance
from api.caller import Caller
from api.feed import Feed
from api.inbox import Inbox
from api.metrics import ApiMetrics
from api.pace import Pace
from api.relay import Admission, Relay
from shared import events, log, names
from shared.claim import Claim
from shared.events import AnyEvent, Done, FinishReason, Token
from shared.job import GenerationRequest, SamplingParams, new_job_id, now
from shared.ledger import Ledger
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

    def open(self, _: str) -> Inbox:
        self.inbox = Inbox()
        return self.inbox

    async def acknowledged(self, _: str) -> None:
        pass

    def close(self, _: str, inbox: Inbox) -> None:
        inbox.close()


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
        self._accepted = False

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

    def repeat(self, *, is_holder: bool) -> None:
        """Send the last append again, as if its reply had been lost: the answer is the same."""
        if self._sent is not None:
            mine = self._sent.owner == getattr(self._claim, "owner", "")
            expected = self._accepted and is_holder and mine
            assert self._log.append_all([self._sent]) == [expected]

    def _append(self, event: AnyEvent) -> bool:
        if self._claim is None:
            return False
        self._sent = Append(self._claim.job_id, self._claim.owner, event)
        (self._accepted,) = self._log.append_all([self._sent])
        self._last += self._accepted
        return self._accepted


ANYBODY = Caller("")


class Reader:
    """A client that follows the job and comes back with the last number it has."""

    def __init__(self, relay: Relay, job_id: str) -> None:
        self._relay = relay
        self._job_id = job_id
        self.heard: list[AnyEvent] = []
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        after = self.heard[-1].seq if self.heard else 0
        async with self._relay.resume(self._job_id, after, ANYBODY) as feed:
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
    st.tuples(st.just("say twice"), WRITER),  # with nothing heard in between
    st.tuples(st.just("repeat"), WRITER),
    st.tuples(st.just("seize"), WRITER),
    st.tuples(st.just("deliver"), st.integers(0, 30)),  # any message: early, late, again
    st.tuples(st.just("deliver"), st.integers(-3, -1)),  # one of the newest
    st.tuples(st.just("deliver"), st.just(-1)),  # what usually happens
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
    with connect(settings, "test") as redis, redis.pubsub() as pubsub:
        async with connect_async(settings, "test") as client:
            wire = Wire()
            relay = make_relay(settings, client, redis, wire)
            job_id = new_job_id()
            pubsub.subscribe(names.channel(job_id))
            assert pubsub.get_message(timeout=5) is not None  # the acknowledgement
            assert await relay.enqueue(admission(settings, job_id)) == job_id
            reader = Reader(relay, job_id)
            scene = Scene(settings, redis, pubsub, wire=wire, reader=reader, job_id=job_id)
            for kind, number in steps:
                await scene.play(kind, number)
            scene.seize(0)
            assert scene.writers[0].end()
            assert not scene.writers[1].say()
            await scene.reader.finish()
            scene.hear()
            in_the_log = await log.read(client, job_id)
    assert scene.reader.heard == in_the_log == scene.published
    assert [event.seq for event in in_the_log] == list(range(1, len(in_the_log) + 1))


class Scene:
    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        pubsub: PubSub,
        *,
        wire: Wire,
        reader: Reader,
        job_id: str,
    ) -> None:
        self.writers = [Writer(redis, name, settings) for name in ("a", "b")]
        self.holder: Claim | None = None
        self.published: list[AnyEvent] = []
        self.reader = reader
        self._redis = redis
        self._pubsub = pubsub
        self._wire = wire
        self._job_id = job_id

    async def play(self, kind: str, number: int) -> None:
        match kind:
            case "say" | "say twice":
                self.say(self.writers[number], times=1 if kind == "say" else 2)
            case "repeat":
                self.writers[number].repeat(is_holder=self.holds(self.writers[number]))
            case "seize":
                self.seize(number)
            case "deliver":
                self.hear()
                self._wire.inbox.put(self.published[number % len(self.published)])
            case "gap":
                self._wire.inbox.mark_gap()
            case "reconnect":
                await self.reader.reconnect()
            case "pass":
                await asyncio.sleep(number / 1000)
            case _:
                await self.reader.catch_up(self.length())

    def holds(self, writer: Writer) -> bool:
        return writer.claim is not None and writer.claim == self.holder

    def say(self, writer: Writer, times: int) -> None:
        for _ in range(times):
            assert writer.say() == self.holds(writer)

    def seize(self, number: int) -> None:
        self.writers[number].seize(self._job_id, self.holder)
        self.holder = self.writers[number].claim

    def length(self) -> int:
        return int(self._redis.xlen(names.events(self._job_id)))

    def hear(self) -> None:
        """Whatever the scripts have published by now."""
        while len(self.published) < self.length():
            message = self._pubsub.get_message(timeout=5)
            assert message is not None
            self.published.append(events.decode(message["data"]))


def make_relay(settings: Settings, client: object, redis: Redis, wire: Wire) -> Relay:
    feeds: set[Feed] = set()
    return Relay(
        client,
        wire,
        JobQueue(client, result_ttl=60, rq_redis=redis),
        Limits(max_queued=10_000, max_in_flight=10_000),
        feeds=feeds,
        attendance=Attendance(client, feeds, grace=30),
        pace=Pace(client),
        metrics=ApiMetrics(),
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
    return Admission(request, ttl=60, idempotency=None)
