"""Commands to Redis with nothing around them."""

from __future__ import annotations

import threading
from typing import Any, TypeAlias
from weakref import finalize

import hiredis
from redis import ConnectionPool, Redis
from redis.exceptions import ResponseError

Command: TypeAlias = tuple[str | bytes | int, ...]


class Wire:
    """For what is sent with every step of an engine: each thread has a connection of its own.

    redis-py's client takes one from its pool for each command, looks whether it is alive, and
    keeps statistics. That is half of a command's CPU time, in which the engine's thread may wait
    for the interpreter. Here a connection is kept until a command fails on it.
    """

    def __init__(self, redis: Redis) -> None:
        """Connections come from `redis`' pool, and go back there with their thread or with this."""
        self._pool = redis.connection_pool
        self._of_thread = threading.local()

    def call(self, command: Command) -> Any:
        """Its reply. After a failure the next call takes another connection from the pool.

        Raises:
            RedisError: the command may or may not have been carried out.
        """
        kept: _Kept | None = getattr(self._of_thread, "kept", None)
        if kept is None:
            kept = self._of_thread.kept = _Kept(self._pool)
        connection = kept.connection
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub means any tuple
        try:
            connection.send_packed_command([packed], check_health=False)
            return connection.read_response()
        except ResponseError:
            raise  # a reply like any other
        except BaseException:
            # A reply that comes late must not be taken for the next command's; and by itself a
            # connection goes back to where it was, not to who is the primary now.
            connection.disconnect()
            del self._of_thread.kept
            raise


class _Kept:
    def __init__(self, pool: ConnectionPool) -> None:
        self.connection: Any = pool.get_connection()
        finalize(self, pool.release, self.connection).atexit = False
