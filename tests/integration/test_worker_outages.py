"""Redis or the store goes away for a while; the engine is fake, everything else is real."""

import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from redis import Redis

from cli.embedded import valkey_folder
from shared import names
from shared.claim import worker_of
from shared.events import Resumed
from shared.job import GenerationRequest
from shared.redis import connect
from shared.settings import Settings
from tests.support.checks import assert_all_whole, assert_idle, rows, wait_until_over
from tests.support.jobs import (
    MODEL,
    Submitter,
    ended,
    generation,
    ledger,
    log_of,
    streams,
    under_way,
)
from tests.support.poll import until
from tests.support.postgres import Postgres
from tests.support.traps import Trap
from tests.support.valkey import running_valkey
from tests.support.workers import crew


class Server:
    """A Valkey that can be taken away and comes back with its append-only file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes = ExitStack()
        self.start()

    def start(self) -> None:
        self.process = self._processes.enter_context(running_valkey(self._settings))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)

    def close(self) -> None:
        self._processes.close()


@pytest.fixture
def alone(session_settings: Settings, short_tmp: Path) -> Iterator[Settings]:
    """Settings with a data folder of their own."""
    folder = short_tmp / "outages"
    yield session_settings.model_copy(
        update={"data_dir": folder, "slots": 16, "shutdown_grace": 2.0}
    )
    shutil.rmtree(folder)


@pytest.fixture
def server(alone: Settings) -> Iterator[Server]:
    made = Server(alone)
    yield made
    made.close()


@pytest.fixture
def client(alone: Settings, server: Server) -> Iterator[Redis]:
    with connect(alone, "test") as made:
        yield made


def resumed(redis: Redis, requests: list[GenerationRequest]) -> list[str]:
    return [
        request.id
        for request in requests
        if any(isinstance(event, Resumed) for event in log_of(redis, request.id))
    ]


# Redis


def test_redis_is_killed_and_comes_back(alone: Settings, server: Server, client: Redis) -> None:
    requests = streams(16, 200)
    waiting = streams(24, 20)  # with those that run more than there are slots
    with crew(alone, step_seconds=0.01, hurried=True) as workers:
        processes = [worker.process for worker in workers.start(2)]
        Submitter(alone).submit(*requests, *waiting)
        under_way(client, requests)
        server.kill()
        time.sleep(1)
        server.start()
        assert_all_whole(alone, client, *requests, *waiting)
        assert [process.poll() for process in processes] == [None, None]
    assert resumed(client, requests) == []


def test_a_silence_longer_than_a_heartbeats_life_is_held_against_nobody(
    alone: Settings, server: Server, client: Redis
) -> None:
    """Longer than any time-out on a socket, too."""
    short, long = streams(8, 60), streams(8, 280)
    with crew(alone, step_seconds=0.05, hurried=True) as workers:
        processes = [worker.process for worker in workers.start(2)]
        Submitter(alone).submit(*short, *long)
        under_way(client, [*short, *long])
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(12)
        server.process.send_signal(signal.SIGCONT)
        assert_all_whole(alone, client, *short, *long)
        assert [process.poll() for process in processes] == [None, None]
    assert resumed(client, [*short, *long]) == []


@pytest.mark.parametrize("step", ["before open", "after open"])
def test_redis_that_dies_as_a_job_is_begun(
    alone: Settings, server: Server, client: Redis, tmp_path: Path, step: str
) -> None:
    """RQ's loop would quit between two jobs."""
    trap = Trap(tmp_path)
    with crew(alone, hurried=True) as workers:
        worker = workers.start_one(**trap.environment)
        trap.set(step, victim=server.process.pid)
        request = generation("hello")
        Submitter(alone).submit(request)
        until(lambda: trap.has_sprung, what="the death of Valkey")
        server.kill()
        time.sleep(1)
        server.start()
        assert_all_whole(alone, client, request)
        assert worker.process.poll() is None
        until(lambda: workers.info(worker).running == 0, what="an idle worker")
        assert_idle(client, worker.name)


def test_redis_that_lost_what_was_not_yet_on_disk(
    alone: Settings, server: Server, client: Redis, tmp_path: Path
) -> None:
    """As after a power failure: jobs go on from what is there, also one that was all but over."""
    running, ending, trap = streams(8, 250), streams(2, 100), Trap(tmp_path)
    with crew(alone, step_seconds=0.01, hurried=True) as workers:
        workers.start(2, **trap.environment)
        Submitter(alone).submit(*running, *ending)
        under_way(client, [*running, *ending])
        folder = valkey_folder(alone)
        backup = folder.with_name("backup")
        shutil.copytree(folder, backup)
        trap.set("before finish", victim=server.process.pid)
        until(lambda: trap.has_sprung, what="the end of a log")
        server.kill()
        shutil.rmtree(folder)
        backup.rename(folder)
        server.start()
        assert not any(log_of(client, request.id)[-1].name == "done" for request in ending)
        assert_all_whole(alone, client, *running, *ending)
    assert all(row.attempts == 2 for row in rows(alone).values())


# Draining


def test_a_worker_that_is_told_to_stop_loses_nothing(
    alone: Settings, server: Server, client: Redis
) -> None:
    alone = alone.model_copy(update={"shutdown_grace": 5.0})
    quick, slow = streams(16, 60), streams(16, 400)
    with crew(alone, step_seconds=0.02, hurried=True) as workers:
        stopped, other = workers.start(2)
        requests = [request for pair in zip(quick, slow, strict=True) for request in pair]
        Submitter(alone).submit(*requests)
        under_way(client, requests)
        stopped.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert stopped.process.wait(timeout=20) == 0
        assert time.monotonic() - began < alone.shutdown_grace
        # It has let go itself; nobody had to take its jobs for those of a dead worker.
        owners = ledger(client).owners().values()
        assert {worker_of(owner) for owner in owners} == {other.name}
        assert client.hlen(names.STRIKES) == 0
        assert_all_whole(alone, client, *requests)
        assert other.process.poll() is None
    handed_over = resumed(client, requests)
    assert 0 < len(handed_over) <= 16
    assert set(handed_over) <= {request.id for request in slow}


def test_a_worker_stops_in_time_without_redis(
    alone: Settings, server: Server, client: Redis
) -> None:
    requests = streams(4, 130)
    with crew(alone, step_seconds=0.02, hurried=True) as workers:
        stopped = workers.start_one()
        Submitter(alone).submit(*requests)
        under_way(client, requests)
        server.kill()
        stopped.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        stopped.process.wait(timeout=20)
        assert time.monotonic() - began < alone.shutdown_grace + 3
        server.start()
        workers.start_one()
        assert_all_whole(alone, client, *requests)


# The store


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    database = sqlite3.connect(settings.data_dir / "db" / "minivault.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    yield
    database.execute("COMMIT")
    database.close()


@contextmanager
def full(settings: Settings) -> Iterator[None]:
    """The error of a full disk, for want of one."""
    database = sqlite3.connect(settings.data_dir / "db" / "minivault.db", isolation_level=None)
    database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON interactions "
        "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    yield
    database.execute("DROP TRIGGER full")
    database.close()


@contextmanager
def gone(settings: Settings) -> Iterator[None]:
    folder = settings.data_dir / "db"
    away = folder.rename(folder.with_name("away"))
    yield
    away.rename(folder)


@pytest.mark.parametrize("fault", [locked, full, gone])
def test_rows_follow_when_the_store_comes_back(
    alone: Settings,
    server: Server,
    client: Redis,
    fault: Callable[[Settings], AbstractContextManager[None]],
) -> None:
    before, during = generation("before"), streams(40, 30)
    with crew(alone, step_seconds=0.01, hurried=True) as workers:
        worker = workers.start_one()
        Submitter(alone).submit(before)
        wait_until_over(client, [before])
        with fault(alone):
            began = time.monotonic()
            Submitter(alone).submit(*during)
            for request in during:
                ended(client, request.id)
            # 40 streams in 16 slots: three rounds of a third of a second each.
            assert time.monotonic() - began < 1 + 3
            until(lambda: client.scard(names.UNSAVED) == len(during), what="rows that wait")
            assert client.zcard(names.JOBS) == len(during)
            assert all(client.ttl(names.events(request.id)) == -1 for request in during)
            until(lambda: workers.info(worker).running == 0, what="free slots")
            pace = float(client.hget(names.PACE, MODEL))
        assert_all_whole(alone, client, before, *during)
        assert float(client.hget(names.PACE, MODEL)) == pace
    assert {row.attempts for row in rows(alone).values()} == {1}


def test_a_worker_that_was_started_while_the_store_fails(
    alone: Settings, server: Server, client: Redis
) -> None:
    """Nor do rows get lost whose worker dies before the store comes back."""
    requests = streams(4, 20)
    with crew(alone, hurried=True) as workers:
        dying = workers.start_one()
        with full(alone):
            Submitter(alone).submit(*requests)
            for request in requests:
                ended(client, request.id)
            until(lambda: client.scard(names.UNSAVED) == 4, what="rows that wait")
            dying.kill()
            workers.start_one()
            assert rows(alone) == {}
        assert_all_whole(alone, client, *requests)


@pytest.mark.parametrize("fault", [Postgres.away, Postgres.frozen])
def test_a_database_server_that_is_away_in_mid_stream(
    alone: Settings,
    server: Server,
    client: Redis,
    postgres: Postgres,
    fault: Callable[[Postgres], AbstractContextManager[None]],
) -> None:
    """It crashes, or stands still; a worker that starts meanwhile serves as well."""
    alone = alone.model_copy(update={"database_url": postgres.url(postgres.new_database())})
    before, during = streams(16, 60), streams(24, 30)
    with crew(alone, step_seconds=0.01, hurried=True) as workers:
        workers.start_one()
        Submitter(alone).submit(*before)
        under_way(client, before)
        with fault(postgres):
            late = workers.start_one()
            Submitter(alone).submit(*during)
            for request in [*before, *during]:
                ended(client, request.id)
            until(lambda: client.scard(names.UNSAVED) == 40, what="rows that wait")
            assert late.process.poll() is None
        assert_all_whole(alone, client, *before, *during)
    assert len(rows(alone)) == 40
    assert {row.attempts for row in rows(alone).values()} == {1}
