"""A thread's own connection: whose reply is whose, and where it goes after a failure."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis.sentinel
from redis import Redis
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as LateError

from shared.wire import Wire
from tests.support.pretended_redis import SILENCE, PretendedRedis, pretended_redis


def echo(_: int, command: list[bytes]) -> bytes | None:
    return b"+%b\r\n" % command[1] if command[0] == b"ECHO" else None


def replica(_: int, command: list[bytes]) -> bytes | None:
    return b"-READONLY It is a replica.\r\n" if command[0] == b"ECHO" else None


class Named:
    """Sentinels that say which server is the primary."""

    def __init__(self, primary: PretendedRedis) -> None:
        self.primary = primary

    def client(self) -> Redis:
        sentinel = redis.sentinel.Sentinel([("127.0.0.1", 1)], socket_timeout=0.2)  # type: ignore[no-untyped-call]
        sentinel.discover_master = lambda _: ("127.0.0.1", self.primary.port)  # type: ignore[method-assign,assignment]
        made = sentinel.master_for("minivault")  # type: ignore[no-untyped-call]
        assert isinstance(made, Redis)
        return made


@pytest.fixture
def servers() -> Iterator[list[PretendedRedis]]:
    with ExitStack() as stack:
        yield [stack.enter_context(pretended_redis(echo)) for _ in range(2)]


@pytest.mark.parametrize("by", ["address", "sentinels"])
def test_a_reply_that_comes_late_is_nobodys(servers: list[PretendedRedis], by: str) -> None:
    late = threading.Event()

    def hangs_once(number: int, command: list[bytes]) -> bytes | None:
        if command[:2] == [b"ECHO", b"first"]:
            late.wait(10)
        return echo(number, command)

    servers[0].rule = hangs_once
    addressed = Redis(port=servers[0].port, socket_timeout=0.2)
    wire = Wire(addressed if by == "address" else Named(servers[0]).client())
    with pytest.raises(LateError):
        wire.call(("ECHO", "first"))
    late.set()
    assert [wire.call(("ECHO", word)) for word in ("second", "third")] == [b"second", b"third"]


@pytest.mark.parametrize("how", ["died", "demoted"])
def test_behind_sentinels_the_next_call_goes_to_the_new_primary(
    servers: list[PretendedRedis], how: str
) -> None:
    named = Named(servers[0])
    wire = Wire(named.client())
    assert wire.call(("ECHO", "a")) == b"a"
    named.primary = servers[1]
    if how == "died":
        servers[0].close()
    else:
        servers[0].rule = replica
    with pytest.raises(LostError):
        wire.call(("ECHO", "b"))
    assert wire.call(("ECHO", "b")) == b"b"
    assert len(servers[1].connections) == 1


def test_what_is_refused_leaves_the_connection_as_it_is(servers: list[PretendedRedis]) -> None:
    servers[0].rule = lambda number, command: (
        b"-ERR no\r\n" if command[0] == b"EVAL" else echo(number, command)
    )
    wire = Wire(Redis(port=servers[0].port))
    with pytest.raises(ResponseError):
        wire.call(("EVAL", "", 0))
    assert wire.call(("ECHO", "a")) == b"a"
    assert len(servers[0].connections) == 1


def test_a_connection_that_failed_goes_back_to_the_pool(servers: list[PretendedRedis]) -> None:
    servers[0].rule = lambda _number, command: SILENCE if command[0] == b"ECHO" else None
    client = Redis(port=servers[0].port, socket_timeout=0.1, max_connections=1)
    wire = Wire(client)
    for _ in range(3):
        with pytest.raises(LateError):
            wire.call(("ECHO", "a"))
    servers[0].rule = echo
    assert wire.call(("ECHO", "a")) == b"a"
