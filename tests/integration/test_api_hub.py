"""The one pub/sub connection against a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import structlog
from redis import Redis
from redis.exceptions import NoScriptError

from api import hub
from api.hub import Subscriptions
from api.inbox import Inbox
from shared import names
from shared.errors import RedisUnavailableError
from shared.events import AnyEvent, Token
from shared.redis import connect_async
from shared.settings import Settings
from tests.support.poll import until_async
from tests.support.scripted_worker import Author

JOB = "job-x"


@pytest.fixture
async def subscriptions(settings: Settings) -> AsyncIterator[Subscriptions]:
    async with connect_async(settings, "test") as redis, Subscriptions(redis) as subscriptions:
        yield subscriptions


def subscribers(redis: Redis) -> int:
    return int(redis.pubsub_numsub(names.channel(JOB))[0][1])


@asynccontextmanager
async def subscribed(subscriptions: Subscriptions) -> AsyncIterator[Inbox]:
    inbox = subscriptions.open(JOB)
    try:
        await subscriptions.acknowledged(JOB)
        yield inbox
    finally:
        subscriptions.close(JOB, inbox)


def seqs(messages: list[AnyEvent] | None) -> list[int]:
    assert messages is not None
    return [message.seq for message in messages]


async def test_a_subscription_is_acknowledged_before_it_is_handed_out(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    async with subscribed(subscriptions) as inbox:
        assert subscribers(redis) == 1
        Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
        assert await inbox.get(5) == [Token(seq=1, ids=(), text="a")]


async def test_a_channel_is_kept_for_as_long_as_one_stream_wants_it(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    author = Author(redis, JOB)
    async with subscribed(subscriptions) as first:
        async with subscribed(subscriptions) as second:
            assert subscribers(redis) == 1
            author.append(Token(seq=1, ids=(), text="a"))
            assert [seqs(await each.get(5)) for each in (first, second)] == [[1], [1]]
        author.append(Token(seq=2, ids=(), text="b"))
        assert seqs(await first.get(5)) == [2]
    async with subscribed(subscriptions) as again:
        author.append(Token(seq=3, ids=(), text="c"))
        assert seqs(await again.get(5)) == [3]

    async def left() -> bool:
        return subscribers(redis) == 0

    await until_async(left, what="unsubscribing")


async def test_a_channel_that_is_left_and_wanted_again_at_once_is_heard(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    """Of two subscriptions under way, only the second one says that the server listens."""
    subscriptions.close(JOB, subscriptions.open(JOB))
    async with subscribed(subscriptions) as inbox:
        assert subscribers(redis) == 1
        Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
        assert seqs(await inbox.get(5)) == [1]


async def test_what_is_wanted_before_there_is_a_connection_is_heard(
    settings: Settings, redis: Redis
) -> None:
    async with connect_async(settings, "test") as client, Subscriptions(client) as subscriptions:
        inbox = subscriptions.open(JOB)  # in the same breath
        await subscriptions.acknowledged(JOB)
        Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
        assert seqs(await inbox.get(5)) == [1]
        subscriptions.close(JOB, inbox)


async def test_a_new_connection_is_a_gap(subscriptions: Subscriptions, redis: Redis) -> None:
    async with subscribed(subscriptions) as inbox:
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await inbox.get(10) is None
        assert subscribers(redis) == 1
        Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
        assert seqs(await inbox.get(5)) == [1]


async def test_a_message_that_can_not_be_read_is_a_gap(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    async with subscribed(subscriptions) as inbox:
        redis.publish(names.channel(JOB), b'{"type":"from-the-future"}')
        assert await inbox.get(5) is None


async def test_a_server_that_hangs_is_left(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PING_SECONDS", 0.05)
    with structlog.testing.capture_logs() as logs:
        async with (
            connect_async(settings, "test") as client,
            Subscriptions(client) as hanging,
            subscribed(hanging) as inbox,
        ):
            redis.execute_command("CLIENT", "PAUSE", 400, "ALL")
            assert await inbox.get(10) is None
    assert "pub/sub connection lost" in [entry["event"] for entry in logs]


async def test_a_connection_that_serves_nobody_is_replaced(
    subscriptions: Subscriptions, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ACKNOWLEDGE_TIMEOUT", 0.2)
    async with subscribed(subscriptions):
        (reader,) = (
            task for task in asyncio.all_tasks() if task.get_name() == "subscriptions.read"
        )
        reader.cancel()  # its group takes that for an end and waits for the other, which goes on
        await asyncio.wait([reader])
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    async def serves() -> bool:
        with suppress(RedisUnavailableError):
            async with subscribed(subscriptions) as inbox:
                Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
                return await inbox.get(5) is not None
        return False

    assert not await serves()
    await until_async(serves, what="another connection")


async def test_without_a_server_a_stream_is_refused_in_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ACKNOWLEDGE_TIMEOUT", 0.1)
    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    async with connect_async(nowhere, "test") as client, Subscriptions(client) as subscriptions:
        with pytest.raises(RedisUnavailableError):
            async with subscribed(subscriptions):
                pass


# Questions on the same connection


async def test_each_gets_its_own_reply_whatever_is_pushed_between(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    async def asked(number: int) -> bool:
        inbox = subscriptions.open(f"job-{number}")
        reply = await subscriptions.ask("ECHO", number)
        await subscriptions.acknowledged(f"job-{number}")
        subscriptions.close(f"job-{number}", inbox)
        return bool(reply == str(number).encode())

    async with subscribed(subscriptions) as inbox:
        asking = [asyncio.create_task(asked(number)) for number in range(100)]
        asking[50].cancel()  # perhaps on its way: its reply is nobody's
        Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
        replies = await asyncio.gather(*asking, return_exceptions=True)
        assert seqs(await inbox.get(5)) == [1]
    assert replies.pop(50) is not True
    assert replies == [True] * 99
    ours = [
        client for client in redis.client_list() if int(client["sub"]) or "echo" in client["cmd"]
    ]
    assert len(ours) <= 1


async def test_who_gives_up_leaves_others_their_replies(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    async with subscribed(subscriptions):
        redis.execute_command("CLIENT", "PAUSE", 200, "ALL")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await subscriptions.ask("ECHO", "first")
        assert await subscriptions.ask("ECHO", "second") == b"second"


async def test_what_is_refused_is_raised_and_the_connection_goes_on(
    subscriptions: Subscriptions,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with subscribed(subscriptions):
            with pytest.raises(NoScriptError):
                await subscriptions.ask("EVALSHA", "0" * 40, 0)
            assert await subscriptions.ask("ECHO", "a") == b"a"
    assert "pub/sub connection lost" not in [entry["event"] for entry in logs]


async def test_without_a_connection_another_one_is_asked(
    subscriptions: Subscriptions, redis: Redis
) -> None:
    async with subscribed(subscriptions) as inbox:
        redis.execute_command("CLIENT", "PAUSE", 300, "WRITE")
        lost = asyncio.create_task(subscriptions.ask("SET", "asked", "yes"))
        await asyncio.sleep(0)  # it is on its way, and stays so
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await lost  # by the pool
        assert redis.get("asked") == b"yes"
        assert await inbox.get(10) is None


async def test_a_connection_that_does_not_tell_replies_from_messages_is_not_asked(
    settings: Settings, redis: Redis
) -> None:
    old = settings.model_copy(update={"redis_url": f"{settings.effective_redis_url}?protocol=2"})
    async with (
        connect_async(old, "test") as client,
        Subscriptions(client) as subscriptions,
        subscribed(subscriptions) as inbox,
    ):
        assert await subscriptions.ask("ECHO", "a") == b"a"
        Author(redis, JOB).append(Token(seq=1, ids=(), text="a"))
        assert seqs(await inbox.get(5)) == [1]
