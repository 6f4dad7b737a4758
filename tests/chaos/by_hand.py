"""A service put together from its commands, without a supervisor: nobody tells of a death."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis import Redis

from cli.client import is_ready
from shared.configuration import load_settings
from tests.chaos.living import Living, living
from tests.chaos.target import OutsideValkey, answers, wait_for
from tests.support.models import seed_real_model
from tests.support.stack import MINIVAULT, Stack


class ByHand:
    """Valkey, `minivault api` and as many `minivault worker` as are kept."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        self._stack = Stack(folder, WORKERS=count)  # for its environment; never started
        self.settings = load_settings(data_dir=self._stack.data)
        self.redis = Redis.from_url(f"unix://{self.settings.socket_path}", socket_timeout=5)
        self.address = ("127.0.0.1", self._stack.port)
        self._count = count
        self._valkey = OutsideValkey(self.settings)
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {"api": [], "worker": []}

    async def start(self) -> None:
        seed_real_model(self.settings)
        self._valkey.start()
        if not await wait_for(lambda: answers(self.redis), 30):
            raise TimeoutError("Valkey does not answer")
        self._keep("api", 1)

    def is_well(self) -> bool:
        """All are there; a worker that is missing is started first."""
        self._keep("worker", self._count)
        return len(self.living()) == self._count and is_ready(self._stack.url)

    def living(self) -> list[Living]:
        return living(self.redis, [process.pid for process in self._processes["worker"]])

    def kill(self) -> None:
        self._stack.kill()
        for processes in self._processes.values():
            for process in processes:
                process.wait(timeout=10)
        self.redis.close()
        self._valkey.close()

    def _keep(self, role: str, count: int) -> None:
        """Have so many processes of a role."""
        processes = self._processes[role]
        processes[:] = [process for process in processes if process.poll() is None]
        while len(processes) < count:
            with (self._stack.folder / f"{role}.log").open("ab") as output:
                processes.append(
                    subprocess.Popen(
                        [MINIVAULT, role],
                        cwd=self._stack.folder,
                        env=self._stack.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )
                )


@asynccontextmanager
async def running_by_hand(folder: Path) -> AsyncIterator[ByHand]:
    """With two workers."""
    service = ByHand(folder, 2)
    try:
        await service.start()
        if not await wait_for(service.is_well, 60):
            raise TimeoutError(f"not ready; see {folder}")
        yield service
    finally:
        await asyncio.to_thread(service.kill)
