"""Worker processes with a fake engine: everything else in them is real.

`python -m tests.support.workers` is such a process; its settings come from the environment.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from shared.errors import ModelUnavailableError
from shared.job import GenerationRequest
from shared.ledger import report_death
from shared.logging import configure
from shared.queue import WorkerInfo, workers
from shared.redis import connect
from shared.settings import PREFIX, Settings, load_settings
from shared.store import Store
from tests.support import traps
from tests.support.poll import until
from worker.engine.fake import CodePoints
from worker.models import LoadedModel
from worker.service import WorkerService

STEP_SECONDS = "FAKE_STEP_SECONDS"
LOAD_SECONDS = "FAKE_LOAD_SECONDS"
BROKEN_MODEL = "broken"


class CodePointPrompts:
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        if request.prompt == traps.DEADLY_TO_TOKENIZE:
            os._exit(1)
        return CodePoints().encode(request.prompt)


@dataclass(frozen=True)
class WorkerProcess:
    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Crew:
    """Workers of one data folder, as a supervisor has them."""

    def __init__(self, settings: Settings, step_seconds: float, load_seconds: float) -> None:
        self._settings = settings
        self._step_seconds = step_seconds
        self._load_seconds = load_seconds
        self._client = connect(settings, "test")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = settings.logs_dir / "workers.log"

    def start(self, count: int = 1, **environment: str) -> list[WorkerProcess]:
        """Some more workers; returns when they are ready."""
        variables = {
            **os.environ,
            **environment,
            STEP_SECONDS: str(self._step_seconds),
            LOAD_SECONDS: str(self._load_seconds),
            PREFIX + "DATA_DIR": str(self._settings.data_dir),
            PREFIX + "MODELS": ",".join(self._settings.models),
            PREFIX + "SLOTS": str(self._settings.slots),
            PREFIX + "SHUTDOWN_GRACE": str(self._settings.shutdown_grace),
        }
        with self._log.open("ab") as output:
            started = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.workers"],
                    env=variables,
                    cwd=Path(__file__).parents[2],
                    stdout=output,
                    stderr=output,
                )
                for _ in range(count)
            ]
        self._processes += started
        what = f"workers (log: {self._log})"
        pids = {process.pid for process in started}
        until(lambda: pids <= live_pids(self._client), seconds=30, what=what)
        found = {info.pid: name for name, info in workers(self._client).items()}
        return [WorkerProcess(found[process.pid], process) for process in started]

    def start_one(self, **environment: str) -> WorkerProcess:
        return self.start(**environment)[0]

    def report(self, worker: WorkerProcess) -> None:
        """Tell the others of a death, as the supervisor does."""
        assert worker.process.wait(timeout=20) != 0
        report_death(self._client, worker.name)

    def info(self, worker: WorkerProcess) -> WorkerInfo:
        return workers(self._client)[worker.name]

    def disband(self) -> None:
        for process in self._processes:
            process.kill()  # also what is stopped
            process.wait(timeout=10)
        self._client.close()


@contextmanager
def crew(
    settings: Settings, *, step_seconds: float = 0.001, load_seconds: float = 0
) -> Iterator[Crew]:
    made = Crew(settings, step_seconds, load_seconds)
    try:
        yield made
    finally:
        made.disband()


@contextmanager
def fake_worker(
    settings: Settings, *, step_seconds: float = 0.001, count: int = 1
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes that serve `settings` and are ready."""
    with crew(settings, step_seconds=step_seconds) as made:
        yield [worker.process for worker in made.start(count)]


def live_pids(client: Redis) -> set[int]:
    return {info.pid for info in workers(client).values()}


def _load(name: str) -> LoadedModel:
    if name == BROKEN_MODEL:
        raise ModelUnavailableError("the weights are torn")
    if name != load_settings().default_model:
        time.sleep(float(os.environ[LOAD_SECONDS]))
    engine = traps.DeadlyEngine(slots=64, step_seconds=float(os.environ[STEP_SECONDS]))
    return LoadedModel(name=name, engine=engine, prompts=CodePointPrompts())


def main() -> None:
    settings = load_settings()
    configure(settings, "worker")
    traps.lay_trap()
    service = WorkerService(settings, connect(settings, "worker"), _load, Store.open(settings))
    sys.exit(0 if service.run() else 1)


if __name__ == "__main__":
    main()
