"""The pub/sub connection, with a server that misbehaves as no real one does on demand."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from api import hub
from api.hub import Subscriptions
from shared import events, names
from shared.events import Token
from tests.support.poll import until_async
from tests.support.pretended_redis import (
    SILENCE,
    PretendedRedis,
    message,
    pretended_redis,
    pushed,
)

JOB = "job-x"
CHANNEL = names.channel(JOB).encode()


@pytest.fixture
def server() -> Iterator[PretendedRedis]:
    with pretended_redis() as server:
        yield server


def token(seq: int) -> bytes:
    return events.encode(Token(seq=seq, ids=(1,), text="a"))


async def connected(subscriptions: Subscriptions) -> None:
    async def is_there() -> bool:
        return subscriptions._ear is not None

    await until_async(is_there, what="a connection")


async def followed(subscriptions: Subscriptions, job_id: str) -> object:
    """As a submission does."""
    inbox = subscriptions.open(job_id)
    try:
        reply = await subscriptions.ask("EVALSHA", "x", 0)
        await subscriptions.acknowledged(job_id)
        return reply
    finally:
        subscriptions.close(job_id, inbox)


async def test_one_that_says_nothing_is_given_up_in_time_to_ask_another(
    server: PretendedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ANSWER_TIMEOUT", 0.2)
    hearing: list[int] = []

    def black_hole(number: int, command: list[bytes]) -> bytes | None:
        if command[0] == b"SUBSCRIBE" and not hearing:
            hearing.append(number)
        return SILENCE if number in hearing else None

    async with (
        Redis(port=server.port) as client,
        Subscriptions(client) as subscriptions,
    ):
        await connected(subscriptions)
        server.rule = black_hole
        began = time.monotonic()
        assert await followed(subscriptions, JOB) == b"OK"
        assert 0.2 <= time.monotonic() - began < hub.ACKNOWLEDGE_TIMEOUT
        assert await followed(subscriptions, "job-y") == b"OK"


async def test_one_that_is_slow_but_speaks_is_kept(
    server: PretendedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ANSWER_TIMEOUT", 0.1)

    def slow(_: int, command: list[bytes]) -> bytes | None:
        if command[0] == b"EVALSHA":
            time.sleep(0.3)  # the server's own thread: its silence is what is tested
        return None

    server.rule = slow
    async with Redis(port=server.port) as client, Subscriptions(client) as subscriptions:
        await connected(subscriptions)
        first = subscriptions._ear
        inbox = subscriptions.open(JOB)
        asking = asyncio.create_task(subscriptions.ask("EVALSHA", "x", 0))
        await subscriptions.acknowledged(JOB)  # said before it was silent
        assert await asking == b"OK"
        assert subscriptions._ear is first
        subscriptions.close(JOB, inbox)


async def test_one_that_is_no_primary_any_more_is_left(server: PretendedRedis) -> None:
    hearing: list[int] = []

    def demoted(number: int, command: list[bytes]) -> bytes | None:
        if command[0] == b"SUBSCRIBE" and not hearing:
            hearing.append(number)
        if command[0] == b"EVALSHA" and number in hearing:
            return b"-READONLY You can't write against a read only replica.\r\n"
        return None

    server.rule = demoted
    async with Redis(port=server.port) as client, Subscriptions(client) as subscriptions:
        await connected(subscriptions)
        first = subscriptions._ear
        assert await followed(subscriptions, JOB) == b"OK"
        assert await followed(subscriptions, JOB) == b"OK"
        assert subscriptions._ear is not first


async def test_what_an_earlier_subscription_still_brings_is_not_heard(
    server: PretendedRedis,
) -> None:
    """Behind it something may have been published that neither has brought."""

    def late(_: int, command: list[bytes]) -> bytes | None:
        match command:
            case [b"UNSUBSCRIBE", _]:
                return message(CHANNEL, token(1))
            case [b"SUBSCRIBE", _] if subscribed:
                gone = pushed(b"unsubscribe", CHANNEL)
                return gone + pushed(b"subscribe", CHANNEL) + message(CHANNEL, token(3))
        return None

    subscribed: list[bool] = []
    server.rule = late
    async with Redis(port=server.port) as client, Subscriptions(client) as subscriptions:
        await connected(subscriptions)
        inbox = subscriptions.open(JOB)
        await subscriptions.acknowledged(JOB)
        subscribed.append(True)
        subscriptions.close(JOB, inbox)
        inbox = subscriptions.open(JOB)
        await subscriptions.acknowledged(JOB)
        heard = await inbox.get(5)
        assert heard is not None
        assert [event.seq for event in heard] == [3]
        subscriptions.close(JOB, inbox)


async def test_who_waits_when_all_ends_asks_another(server: PretendedRedis) -> None:
    silent: list[int] = []

    def first_one(number: int, command: list[bytes]) -> bytes | None:
        if command[0] == b"EVALSHA" and not silent:
            silent.append(number)
        return SILENCE if number in silent else None

    async def is_silent() -> bool:
        return bool(silent)

    server.rule = first_one
    async with Redis(port=server.port) as client:
        async with Subscriptions(client) as subscriptions:
            await connected(subscriptions)
            asking = asyncio.create_task(subscriptions.ask("EVALSHA", "x", 0))
            await until_async(is_silent, what="the question")
        assert await asking == b"OK"
