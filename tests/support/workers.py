"""Worker processes with a fake engine: everything else in them is real.

`python -m tests.support.workers` is such a process; its settings come from the environment.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import redis as redis_py

from shared.errors import ModelUnavailableError
from shared.job import GenerationRequest
from shared.logging import configure
from shared.queue import workers
from shared.redis import connect
from shared.settings import PREFIX, Settings, load_settings
from shared.store import Store
from tests.support.poll import until
from worker.engine.fake import CodePoints, FakeEngine
from worker.models import LoadedModel
from worker.service import WorkerService

STEP_SECONDS = "FAKE_STEP_SECONDS"
BROKEN_MODEL = "broken"


class CodePointPrompts:
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        return CodePoints().encode(request.prompt)


@contextmanager
def fake_worker(
    settings: Settings, *, step_seconds: float = 0.001, count: int = 1, **environment: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes that serve `settings` and are ready."""
    variables = {
        **os.environ,
        **environment,
        STEP_SECONDS: str(step_seconds),
        PREFIX + "DATA_DIR": str(settings.data_dir),
        PREFIX + "MODELS": ",".join(settings.models),
        PREFIX + "SLOTS": str(settings.slots),
        PREFIX + "SHUTDOWN_GRACE": str(settings.shutdown_grace),
    }
    log = settings.logs_dir / "workers.log"
    processes: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as output, connect(settings, "test") as client:
        try:
            processes = [_start(variables, output) for _ in range(count)]
            pids = {process.pid for process in processes}
            until(lambda: pids <= live_pids(client), seconds=30, what=f"workers (log: {log})")
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait(timeout=10)


def _start(variables: dict[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.workers"],
        env=variables,
        cwd=Path(__file__).parents[2],
        stdout=output,
        stderr=output,
    )


def live_pids(client: redis_py.Redis) -> set[int]:
    return {info.pid for info in workers(client).values()}


def _load(name: str) -> LoadedModel:
    if name == BROKEN_MODEL:
        raise ModelUnavailableError("the weights are torn")
    engine = FakeEngine(slots=64, step_seconds=float(os.environ[STEP_SECONDS]))
    return LoadedModel(name=name, engine=engine, prompts=CodePointPrompts())


def main() -> None:
    settings = load_settings()
    configure(settings, "worker")
    service = WorkerService(settings, connect(settings, "worker"), _load, Store.open(settings))
    sys.exit(0 if service.run() else 1)


if __name__ == "__main__":
    main()
