"""Worker processes with a fake engine: everything else in them is real.

`python -m tests.support.workers` is such a process; its settings come from the environment.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from redis import Redis

from shared.configuration import load_settings
from shared.errors import InvalidPromptError, ModelUnavailableError
from shared.job import GenerationRequest
from shared.ledger import report_death
from shared.listen import listen
from shared.logging import configure
from shared.queue import WorkerInfo, workers
from shared.redis import connect
from shared.settings import PREFIX, Settings
from shared.store import Store
from tests.support import traps
from tests.support.poll import until
from tests.support.stock import FakeStock
from worker import finisher, heartbeat, intake, pulls, steward, sweep
from worker.engine.fake import CodePoints
from worker.models import LoadedModel
from worker.monitor import Monitor
from worker.nursery import new_worker_name
from worker.prompts import Asked
from worker.service import WorkerService

STEP_SECONDS = "FAKE_STEP_SECONDS"
LOAD_SECONDS = "FAKE_LOAD_SECONDS"
HURRIED = "FAKE_HURRY"
WALL_CLOCK_SKEW = "FAKE_WALL_CLOCK_SKEW"
BROKEN_MODEL = "broken"


_HURRIED: Final[dict[ModuleType, dict[str, float]]] = {
    intake: {"HEARTBEAT_TTL": 4},
    heartbeat: {"HEARTBEAT_TTL": 4, "INTERVAL": 0.5},
    sweep: {"INTERVAL": 1, "_STEADY_SECONDS": 1.5, "_LOST_SECONDS": 1.0, "_CHORES_EVERY": 2},
    finisher: {"_STORE_PAUSE": 1.0},
    steward: {"INTERVAL": 0.3, "STOCK_SECONDS": 0.5},
    pulls: {"LEASE_SECONDS": 3},
}
"""Clocks of a worker whose tests can't wait: everything in proportion, a third of the time."""


class CodePointPrompts:
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        if request.prompt == traps.DEADLY_TO_TOKENIZE:
            os._exit(1)
        return request.prompt_ids or self.tokens(request)

    def tokens(self, asked: Asked, *, add_special: bool = True) -> tuple[int, ...]:
        if asked.prompt.startswith(traps.CONFUSING_TO_TOKENIZE):
            raise LookupError(asked.prompt)
        said = [f"{turn.role}: {turn.content}" for turn in asked.messages] or [asked.prompt]
        return CodePoints().encode("\n\n".join(said))

    def text(self, tokens: Sequence[int]) -> str:
        if max(tokens, default=0) > sys.maxunicode:
            raise InvalidPromptError
        return CodePoints().decode(tokens)


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

    def __init__(self, settings: Settings, variables: dict[str, str]) -> None:
        self._settings = settings
        self._variables = variables
        self._client = connect(settings, "test")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = settings.logs_dir / "workers.log"

    def start(self, count: int = 1, **environment: str) -> list[WorkerProcess]:
        """Some more workers; returns when they are ready."""
        variables = {
            **os.environ,
            **self._variables,
            **environment,
            PREFIX + "DATA_DIR": str(self._settings.data_dir),
            PREFIX + "MODELS": ",".join(self._settings.models),
            PREFIX + "SLOTS": str(self._settings.slots),
            PREFIX + "MAX_LOADED_MODELS": str(self._settings.max_loaded_models),
            PREFIX + "MODEL_PATIENCE": str(self._settings.model_patience),
            PREFIX + "METRICS_PORT": str(self._settings.metrics_port),
            PREFIX + "SHUTDOWN_GRACE": str(self._settings.shutdown_grace),
            PREFIX + "STORE_TEXT": self._settings.store_text,
            PREFIX + "HISTORY_DAYS": str(self._settings.history_days),
        }
        urls = {"REDIS_URL": self._settings.redis_url, "DATABASE_URL": self._settings.database_url}
        variables |= {PREFIX + name: url for name, url in urls.items() if url}
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
        pids = {process.pid for process in started}

        def are_ready() -> bool:
            assert all(process.poll() is None for process in started), self._log.read_text()
            return pids <= live_pids(self._client)

        until(are_ready, seconds=30, what="workers")
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
    settings: Settings,
    *,
    step_seconds: float = 0.001,
    load_seconds: float = 0,
    hurried: bool = False,
) -> Iterator[Crew]:
    """`load_seconds` is for all models but the default one."""
    variables = {STEP_SECONDS: str(step_seconds), LOAD_SECONDS: str(load_seconds)}
    made = Crew(settings, {**variables, HURRIED: "1"} if hurried else variables)
    try:
        yield made
    finally:
        made.disband()


@contextmanager
def fake_worker(
    settings: Settings, *, step_seconds: float = 0.001, count: int = 1
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes that serve `settings` and are ready."""
    with crew(settings, step_seconds=step_seconds, hurried=True) as made:
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


def _load_tokenizer(name: str) -> CodePointPrompts:
    if name == BROKEN_MODEL:
        raise ModelUnavailableError("the tokenizer is torn")
    return CodePointPrompts()


def _hurry() -> None:
    for module, values in _HURRIED.items():
        for name, value in values.items():
            assert hasattr(module, name)
            setattr(module, name, value)


def main() -> None:
    settings = load_settings()
    settings.prepare_data_dir()
    configure(settings, "worker")
    right, skew = time.time, float(os.environ.get(WALL_CLOCK_SKEW, "0"))
    time.time = lambda: right() + skew
    if traps.FILE in os.environ:
        traps.lay_trap()
    if HURRIED in os.environ:
        _hurry()
    redis, store = connect(settings, "worker"), Store.open(settings, patient=True)
    service = WorkerService(
        settings,
        redis,
        _load,
        _load_tokenizer,
        store,
        name=new_worker_name(),
        stock=FakeStock(settings),
    )
    if settings.metrics_port:
        Monitor(listen(settings.metrics_host, settings.metrics_port), service).start()
    ended_as_asked = service.run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if ended_as_asked else 1)  # as the real one: taking torch apart lasts a second


if __name__ == "__main__":
    main()
