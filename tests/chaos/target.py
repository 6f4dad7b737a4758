"""The stack under test, and what can be found out about it without asking it."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Final

from redis import Redis
from redis.exceptions import RedisError

from cli import state
from cli.client import is_ready
from cli.embedded import valkey_command
from shared.configuration import load_settings
from shared.settings import Settings
from tests.chaos.living import Living, living
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Phase
from tests.support.models import seed_real_model
from tests.support.stack import Stack

WORKERS: Final = 2
_POLL: Final = 0.1
_START_SECONDS: Final = 120.0


class Target:
    """`minivault up` with two workers and the real model."""

    def __init__(self, folder: Path, *, workers: int, port: int | None = None) -> None:
        """`port`: of a Valkey outside the stack, as the stack is to reach it."""
        folder.mkdir(parents=True)
        url = None if port is None else f"redis://127.0.0.1:{port}/0"
        self.workers = workers
        self.stack = Stack(folder, WORKERS=workers, REDIS_URL=url)
        self.address = ("127.0.0.1", self.stack.port)
        self.settings: Settings = load_settings(data_dir=self.stack.data)
        self.redis = Redis.from_url(f"unix://{self.settings.socket_path}", socket_timeout=5)
        """Straight to the server, past any proxy."""
        self.starting = asyncio.Lock()
        """Held by whoever starts `up`, or makes it necessary."""
        self.proxy: Proxy | None = None
        self.outside: OutsideValkey | None = None
        self._logs_kept = 0

    @property
    def database(self) -> Path:
        return self.stack.data / "db" / "minivault.db"

    async def start(self) -> None:
        """Start `minivault up`, again and again if it ends: an earlier stack may be ending."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._keep_logs()
            self.stack.start()
            while self.stack.supervisor.poll() is None:
                if await asyncio.to_thread(self.is_well):
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not ready in {_START_SECONDS} s:\n{self.stack.logs()}")
                await asyncio.sleep(_POLL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"`minivault up` ends at once:\n{self.stack.output}")
            await asyncio.sleep(0.5)

    def is_well(self) -> bool:
        """Everything runs and says so: the API, and as many workers as were asked for."""
        return len(self.living()) == self.workers and is_ready(self.stack.url)

    async def wait_well(self, seconds: float) -> bool:
        return await wait_for(self.is_well, seconds)

    def pids(self) -> list[tuple[str, int]]:
        """(role, pid) of each process that somebody has started on purpose and that runs."""
        noted = state.read(self.settings)
        found = [("supervisor", self.stack.supervisor.pid)] if self.stack.process else []
        if self.outside is not None and self.outside.pid:
            found.append(("redis", self.outside.pid))
        if noted is not None:
            processes = [process.checked() for process in noted.processes]
            found += [
                (each.role, each.pid) for each in processes if each.state == "running" and each.pid
            ]
        return found

    def living(self) -> list[Living]:
        return living(self.redis, [pid for role, pid in self.pids() if role == "worker"])

    def kill(self) -> None:
        """Leave no process of this stack behind."""
        self.stack.kill()
        self.redis.close()

    def _keep_logs(self) -> None:
        """A new `up` begins new logs; the old ones may be what explains a failure."""
        said = self.stack.folder / "up.log"
        if said.exists():
            self._logs_kept += 1
            kept = self.stack.folder / f"logs-{self._logs_kept}"
            shutil.copytree(self.stack.data / "logs", kept)
            shutil.copy(said, kept)


class OutsideValkey:
    """A Valkey with an append-only file that the harness looks after."""

    def __init__(self, settings: Settings) -> None:
        settings.prepare_data_dir()
        self._settings = settings
        self._log: IO[bytes] = (settings.logs_dir.parent / "valkey.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Unless it runs."""
        if self.pid:
            return
        self._process = subprocess.Popen(
            valkey_command(self._settings), stdout=self._log, stderr=self._log
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def close(self) -> None:
        self.kill()
        self._log.close()


@asynccontextmanager
async def running_target(
    folder: Path, phase: Phase = Phase.EMBEDDED, *, workers: int = WORKERS
) -> AsyncIterator[Target]:
    """A stack of its own, ready to answer; nothing is left of it afterwards but the folder."""
    async with AsyncExitStack() as resources:
        if phase is Phase.EMBEDDED:
            target = Target(folder, workers=workers)
        else:
            settings = load_settings(data_dir=folder / "data")
            proxy = await resources.enter_async_context(Proxy.running(settings.socket_path))
            target = Target(folder, workers=workers, port=proxy.port)
            target.proxy = proxy
            target.outside = OutsideValkey(target.settings)
            resources.callback(target.outside.close)
            target.outside.start()
            if not await wait_for(lambda: answers(target.redis), 30):
                raise TimeoutError("Valkey does not answer")
        resources.callback(target.kill)
        seed_real_model(target.settings)
        await target.start()
        yield target


async def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true in time. It is asked on a thread: it may block."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL)
    return True


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False
