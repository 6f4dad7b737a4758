"""Redis, PostgreSQL and the API on one host, and a worker on each of two others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from redis import Redis
from redis import exceptions as redis_errors

from cli.embedded import valkey_command
from shared.configuration import load_settings
from shared.queue import workers
from shared.redis import connect
from shared.settings import PREFIX, Settings
from tests.hosts.network import HERE, Host
from tests.support.api import api_process
from tests.support.poll import until
from tests.support.postgres import running_postgres
from tests.support.workers import LOAD_SECONDS, STEP_SECONDS, WALL_CLOCK_SKEW

PASSWORD: Final = "p@ss/word: 100%"
STEP: Final = 0.02
SKEWS: Final = {"east": 420.0, "west": -420.0}
"""Seconds by which the hosts' clocks are wrong: more than any lease lasts."""


@dataclass
class Member:
    """A host and its worker."""

    host: Host
    log: Path
    variables: dict[str, str]
    redis: Redis
    name: str = ""
    _outside: subprocess.Popen[bytes] | None = None
    """Waits for the worker."""

    def start(self) -> None:
        """A worker; returns when it is ready."""
        before = set(workers(self.redis))
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "tests.support.workers"]
            outside = self._outside = self.host.run(
                command, env=self.variables, stdout=output, stderr=output
            )

        def new() -> str:
            assert outside.poll() is None, self.log.read_text()
            found = {name: info for name, info in workers(self.redis).items() if name not in before}
            return next((name for name, i in found.items() if i.host == self.host.name), "")

        self.name = until(new, seconds=30, what=f"the worker ({self.log})")

    @property
    def lives(self) -> bool:
        return self._outside is not None and self._outside.poll() is None

    def kill(self) -> None:
        assert self._outside is not None
        (worker,) = psutil.Process(self._outside.pid).children()
        worker.kill()
        self._outside.wait(timeout=10)

    def close(self) -> None:
        self.host.close()  # and with its first process all others
        if self._outside is not None:
            self._outside.wait(timeout=10)


@dataclass(frozen=True)
class Deployment:
    settings: Settings
    """As on the host with the servers."""
    redis: Redis
    url: str
    east: Member
    west: Member


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    secret = folder / "password"
    secret.write_text(PASSWORD + "\n")
    with ExitStack() as resources:
        database = resources.enter_context(_postgres(folder / "postgres"))
        settings = load_settings(
            data_dir=folder / "here",
            redis_url=f"redis://{HERE}:6379/0",
            redis_password_file=secret,
            database_url=f"postgresql://minivault@{HERE}/{database}",
            database_password_file=secret,
        )
        resources.enter_context(_valkey(settings))
        redis = resources.enter_context(connect(settings, "test"))
        until(lambda: _answers(redis), what="Valkey's answer")
        _, url = resources.enter_context(api_process(settings, folder / "api.log"))
        members = {}
        for number, name in enumerate(("east", "west"), start=2):
            variables = {
                **os.environ,
                STEP_SECONDS: str(STEP),
                LOAD_SECONDS: "0",
                WALL_CLOCK_SKEW: str(SKEWS[name]),
                PREFIX + "DATA_DIR": str(folder / name),
                PREFIX + "REDIS_URL": f"redis://{HERE}:6379/0",
                PREFIX + "REDIS_PASSWORD_FILE": str(secret),
                PREFIX + "DATABASE_URL": f"postgresql://minivault@{HERE}/{database}",
                PREFIX + "DATABASE_PASSWORD_FILE": str(secret),
                PREFIX + "SLOTS": "16",
            }
            member = Member(Host(name, number), folder / f"{name}.log", variables, redis)
            resources.callback(member.close)
            members[name] = member
            member.start()
        yield Deployment(settings, redis, url, members["east"], members["west"])


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Reachable over the network, with a password; yields the name of a database."""
    with running_postgres(folder) as server:
        with (folder / "data" / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet scram-sha-256\n")
        with server.connect() as connection:
            connection.execute(f"ALTER USER minivault PASSWORD '{PASSWORD}'")
        database = server.new_database()
        server.stop()
        server.start("-c", f"listen_addresses={HERE}")
        yield database


@contextmanager
def _valkey(settings: Settings) -> Iterator[None]:
    settings.prepare_data_dir()
    command = [*valkey_command(settings), "--port", "6379", "--bind", HERE, "--unixsocket", ""]
    process = subprocess.Popen([*command, "--requirepass", PASSWORD], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(timeout=10)


def _answers(redis: Redis) -> Any:
    try:
        return redis.ping()
    except redis_errors.ConnectionError:
        return False
