"""The primary that Redis Sentinel names, whichever that is by now."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import redis.asyncio.sentinel
import redis.sentinel
from redis import Redis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis

SCHEME: Final = "redis+sentinel"
_PORT: Final = 26379


class Watched(NamedTuple):
    """A primary by the name that its sentinels know it by."""

    sentinels: list[tuple[str, int]]
    service: str
    options: dict[str, Any]
    """What the primary itself wants to know: the database and a login."""


def parse(url: str) -> Watched:
    """Read `redis+sentinel://[[user]:password@]host[:port][,host...]/service[/database]`.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if parts.scheme != SCHEME or not service or parts.query:
        raise ValueError("no sentinel URL")
    username, _, password = login.partition(":")
    options = {
        "db": int(database or 0),
        "username": unquote(username) or None,
        "password": unquote(password) or None,
    }
    return Watched([_address(host) for host in hosts.split(",")], service, options)


def _address(text: str) -> tuple[str, int]:
    found = urlsplit(f"//{text}")
    if not found.hostname:
        raise ValueError("a sentinel without a host")
    return found.hostname, found.port or _PORT


def client(url: str, options: dict[str, Any]) -> Redis:
    """A client for threads. Every new connection asks the sentinels."""
    sentinels, service, own = parse(url)
    made: Any = redis.sentinel.Sentinel(sentinels, **(options | own)).master_for(service)  # type: ignore[no-untyped-call]
    assert isinstance(made, Redis)
    return made


def client_async(url: str, *, timeout: float, options: dict[str, Any]) -> AsyncRedis:
    """As `client`, for asyncio. `timeout` is for the wait for a connection, in seconds."""
    sentinels, service, own = parse(url)
    sentinel = redis.asyncio.sentinel.Sentinel(sentinels, **(options | own))  # type: ignore[no-untyped-call]
    pool = _Pool(service, sentinel, timeout=timeout, **sentinel.connection_kwargs)  # type: ignore[no-untyped-call]
    return AsyncRedis.from_pool(pool)


class _Pool(redis.asyncio.sentinel.SentinelConnectionPool, BlockingConnectionPool):
    """redis-py's own for sentinels fails where too many want a connection at once.

    Nor does it ever close its connections to the sentinels.
    """

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002  (redis-py's)
        await super().disconnect(inuse_connections)
        if inuse_connections:  # not only those to a primary that is no more
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()
