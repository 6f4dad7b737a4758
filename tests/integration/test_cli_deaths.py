"""The supervisor's word that a worker is dead, whether or not Redis is there to hear it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from redis import Redis

from cli.deaths import DeathNotices
from shared import names
from shared.configuration import load_settings
from shared.queue import WorkerInfo, workers
from shared.redis import connect
from shared.settings import Settings
from tests.support.poll import until
from tests.support.valkey import running_valkey

PID = 4_000_000_000
"""Nobody's."""


def register(redis: Redis, name: str, pid: int, host: str = "", parent: int = 0) -> None:
    info = WorkerInfo(
        pid=pid,
        models=("m",),
        loaded=(),
        slots=1,
        running=0,
        kv_bytes=0,
        host=host or socket.gethostname(),
        parent=parent,
    )
    redis.sadd("rq:workers", f"rq:worker:{name}")
    redis.set(names.worker_info(name), msgspec.json.encode(info), ex=60)


def told(redis: Redis) -> set[str]:
    """Workers that are said to be dead."""
    prefix = names.death("")
    return {key.decode().removeprefix(prefix) for key in redis.keys(f"{prefix}*")}


@pytest.fixture
def notices(settings: Settings) -> Iterator[DeathNotices]:
    notices = DeathNotices(settings)
    notices.start()
    yield notices
    notices.close()
    notices.join(timeout=10)
    assert not notices.is_alive()


def test_a_dead_worker_is_told_by_its_name_and_no_other(
    redis: Redis, notices: DeathNotices
) -> None:
    register(redis, "dead", PID)
    register(redis, "alive", os.getpid())
    register(redis, "elsewhere", PID, host="another-machine")
    notices.tell(PID)
    until(lambda: told(redis), what="the notice")
    assert told(redis) == {"dead"}
    assert set(workers(redis)) == {"alive", "elsewhere"}


def test_a_worker_is_known_by_the_process_that_would_start_it_again(
    redis: Redis, notices: DeathNotices
) -> None:
    register(redis, "fork", os.getpid(), parent=PID)
    notices.tell(PID)
    until(lambda: told(redis), what="the notice")
    assert told(redis) == {"fork"}


def test_one_whom_redis_does_not_know_is_passed_over(redis: Redis, notices: DeathNotices) -> None:
    register(redis, "dead", PID)
    notices.tell(PID + 1)
    notices.tell(PID)
    until(lambda: told(redis), what="the notice")
    assert told(redis) == {"dead"}


def test_what_can_not_be_told_is_told_when_redis_is_back(short_tmp: Path) -> None:
    settings = load_settings(data_dir=short_tmp / "away")
    with running_valkey(settings) as valkey, connect(settings, "test") as redis:
        register(redis, "dead", PID)
        valkey.kill()
        valkey.wait()
    notices = DeathNotices(settings)
    notices.start()
    notices.tell(PID)  # returns at once
    with running_valkey(settings), connect(settings, "test") as redis:
        until(lambda: told(redis), what="the notice")
        assert workers(redis) == {}
        notices.close()
        notices.join(timeout=10)


def test_closing_does_not_wait_for_redis(tmp_path: Path) -> None:
    notices = DeathNotices(load_settings(data_dir=tmp_path))
    notices.start()
    notices.tell(PID)
    notices.close()
    notices.join(timeout=10)
    assert not notices.is_alive()
