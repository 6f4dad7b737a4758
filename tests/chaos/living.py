"""Which workers live, and who they are to the kernel."""

from collections.abc import Collection
from typing import Any, NamedTuple

import psutil
from redis import Redis
from redis.exceptions import RedisError

from shared import names
from shared.claim import worker_of
from shared.queue import workers
from tests.support.stack import is_alive


class Living(NamedTuple):
    """A worker that is ready."""

    name: str
    pid: int
    """Of the process that serves."""
    parent: int
    """Of the process that was started, and starts the one that serves."""


def living(redis: Redis, started: Collection[int]) -> list[Living]:
    """Workers that have said they live and do, of those processes that were started; none
    if Valkey can't be asked.
    """
    try:
        told = workers(redis)
    except RedisError:
        return []
    return [
        Living(name, info.pid, info.parent)
        for name, info in sorted(told.items())
        if info.parent in started and runs(info.pid)
    ]


def runs(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def jobs_of(redis: Redis, worker: str) -> set[str]:
    """Jobs that a worker has claimed; none if Valkey can't be asked."""
    try:
        claims: Any = redis.hgetall(names.CLAIMS)
    except RedisError:
        return set()
    return {job.decode() for job, owner in claims.items() if worker_of(owner.decode()) == worker}
