"""Connections to Redis. One factory for threads, one for asyncio; both name their process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis.exceptions
from redis import Redis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from shared import sentinel
from shared.errors import RedisUnavailableError
from shared.settings import PREFIX, Settings

CONNECT_TIMEOUT: Final = 5.0
SOCKET_TIMEOUT: Final = 10.0
"""Longer than any blocking command in use, so that a hung server is noticed."""

START_SECONDS: Final = 60.0
"""For a server that is being started; reading a long append-only file takes a while."""
_POLL: Final = 0.02

CONNECTION_ERRORS: Final = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)

_REFUSALS: Final = ("MISCONF", "OOM", "READONLY", "LOADING", "NOREPLICAS", "MASTERDOWN", "BUSY")
"""What a server answers that is there but can't write: its disk or its memory is full, or it is
not the primary."""


def cannot_now(error: RedisError) -> bool:
    """Whether the same command may succeed later."""
    return isinstance(error, CONNECTION_ERRORS) or any(word in str(error) for word in _REFUSALS)


def connect(settings: Settings, process: str) -> Redis:
    """A client for threads. Connects on first use."""
    url = settings.effective_redis_url
    if url.startswith(sentinel.SCHEME):
        return sentinel.client(url, _options(process))
    return Redis.from_url(url, **_options(process))


def connect_async(settings: Settings, process: str) -> AsyncRedis:
    """A client for asyncio. Connects on first use. Callers bound their waits by `asyncio.timeout`.

    Where hundreds of tasks want a connection at once they take turns; the default pool would
    fail from the 101st on. There is no time-out of the socket's own: with one, redis-py writes
    through `asyncio.wait_for`, which before Python 3.12 can lose the caller's.
    """
    url, options = settings.effective_redis_url, _options(process) | {"socket_timeout": None}
    if url.startswith(sentinel.SCHEME):
        return sentinel.client_async(url, timeout=SOCKET_TIMEOUT, options=options)
    pool = BlockingConnectionPool.from_url(url, timeout=SOCKET_TIMEOUT, **options)
    return AsyncRedis.from_pool(pool)


def _options(process: str) -> dict[str, Any]:
    return {
        "client_name": f"minivault-{process}",
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": SOCKET_TIMEOUT,
        "health_check_interval": 30,
    }


def require(client: Redis, settings: Settings, patience: float = 0.0) -> None:
    """Prove at start that Redis answers, or will within `patience` seconds.

    Raises:
        RedisUnavailableError: it does not; the message says what to do.
    """
    deadline = time.monotonic() + patience
    with translate_errors(settings):
        while True:
            try:
                client.ping()
            except CONNECTION_ERRORS:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)
            else:
                return


@contextmanager
def translate_errors(settings: Settings) -> Iterator[None]:
    """Turn redis-py's connection errors into ours."""
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise RedisUnavailableError(
            f"Redis at {redact(settings)} refused the login. Check {PREFIX}REDIS_URL."
        ) from error
    except CONNECTION_ERRORS as error:
        hint = (
            "Start the stack with `minivault up`, or set"
            if settings.embedded_redis
            else "Start it, or correct"
        )
        raise RedisUnavailableError(
            f"Redis at {redact(settings)} can't be reached. {hint} {PREFIX}REDIS_URL."
        ) from error


def redact(settings: Settings) -> str:
    """The URL without its password."""
    url = settings.effective_redis_url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
