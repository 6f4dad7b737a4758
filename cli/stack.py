"""`minivault up`: Valkey, API and workers, started together, kept running, stopped in order."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from cli import console, extras, kernels, leftovers, state
from cli.banner import show_banner
from cli.child import Child
from cli.client import is_ready, service_url
from cli.deaths import DeathNotices
from cli.embedded import valkey_command
from cli.lock import ChildrenLock, stack_lock
from cli.progress import ModelProgress
from cli.report import Report, note
from cli.signals import StopSignals
from cli.stopping import stop_in_order
from cli.supervisor import Supervisor
from shared.catalog import load_catalog
from shared.errors import StackError
from shared.keybook import KeyBook, require_some
from shared.listen import listen
from shared.redis import START_SECONDS, connect, require
from shared.settings import Settings
from worker import model_files

_POLL: Final = 0.05
_LINGER_SECONDS: Final = 15
"""Beyond the grace time. They need the server for their last words, and a new supervisor does
not wait: it stops what is left itself."""
_READY_SECONDS: Final = 300
"""Loading a large model from a slow disk takes longer."""


def up(settings: Settings, report: Report) -> None:
    """Run the stack until it is told to stop.

    Raises:
        MiniVaultError: it can't start, or a part of it can't be kept running.
    """
    extras.require("api", "fastapi", "uvicorn")
    extras.require("worker", "torch", "transformers")
    settings.prepare_data_dir()
    with stack_lock(settings), ChildrenLock(settings) as lock, StopSignals() as signals:
        leftovers.clear(settings, lock, report)
        _require_free_port(settings)
        if not settings.embedded_redis:
            with connect(settings, "up") as redis:
                require(redis, settings)
        with closing(KeyBook.open(settings)) as book:  # made once, before several processes want it
            require_some(settings, book)
        prepare_models(settings)
        signals.defer()
        _Stack(settings, signals, lock, report).run()


def prepare_models(settings: Settings) -> None:
    """Fetch the models that the settings name, where missing, and check them.

    Raises:
        MiniVaultError: one can't be had.
    """
    kernels.begin(settings)  # the worker waits for what is not done by then
    catalog = load_catalog(settings)
    for name in settings.models:
        with ModelProgress(name, note(settings)) as progress:
            model_files.ensure_model(catalog[name], settings, progress)
        model_files.verify(catalog[name], settings)


class _StopAskedError(Exception):
    """Told to stop while starting."""


class _Stack:
    def __init__(
        self, settings: Settings, signals: StopSignals, lock: ChildrenLock, report: Report
    ) -> None:
        self._settings = settings
        self._signals = signals
        self._lock = lock
        self._report = report
        self._url = service_url(settings)
        self._console = console.stderr()
        self._deaths = DeathNotices(settings)
        self._supervisor = Supervisor(report, self._write_state, self._on_death)

    def run(self) -> None:
        self._deaths.start()
        for pid in leftovers.worker_pids(self._settings):
            self._deaths.tell(pid)
        try:
            self._start()
            show_banner(self._settings, self._url)
            while not self._signals.count:
                self._supervisor.check()
                time.sleep(_POLL)
        except _StopAskedError:
            pass
        finally:
            self._deaths.close()
            self._stop()
            state.remove(self._settings)

    def _start(self) -> None:
        if self._settings.embedded_redis:
            self._start_child("redis", "redis", self._guarded(valkey_command(self._settings)))
        self._start_child("api", "api", [*_program(), "api", "--supervised"])
        for number in range(1, self._settings.workers + 1):
            command = [*_program(), "worker", "--supervised", *self._metrics_port(number)]
            self._start_child("worker", f"worker-{number}", command)
        if self._settings.embedded_redis:  # the others wait for it by themselves
            self._wait_until(self._redis_answers, "Valkey", START_SECONDS)
        self._wait_until(lambda: is_ready(self._url), "API and workers", _READY_SECONDS)

    def _start_child(self, role: str, name: str, command: list[str]) -> None:
        log = self._settings.logs_dir / f"{name}.log"
        self._supervisor.start(Child(role, name, command, log, inherited=self._lock.fileno()))

    def _metrics_port(self, number: int) -> list[str]:
        """Processes on one machine can't share a port; the API has the one in the settings."""
        first = self._settings.metrics_port
        return ["--metrics-port", str(first + number)] if first else []

    def _guarded(self, command: list[str]) -> list[str]:
        """Should the supervisor die, the server stops when API and workers surely have."""
        seconds = self._settings.shutdown_grace + _LINGER_SECONDS
        return [sys.executable, "-P", "-m", "cli.guard", str(seconds), *command]

    def _stop(self) -> None:
        before = self._signals.count
        if self._supervisor.children:
            self._report("Stopping (Ctrl-C again kills at once)")
        stop_in_order(
            self._supervisor.children,
            grace=self._settings.shutdown_grace,
            report=self._report,
            hurry=lambda: self._signals.count > before,
        )

    def _on_death(self, child: Child) -> None:
        if child.role == "worker":
            self._deaths.tell(child.pid)

    def _wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll while the supervisor watches. A spinner on a terminal, a line elsewhere."""
        deadline = time.monotonic() + seconds
        if not self._console.is_terminal:
            self._report(f"Starting {what}")
        with self._console.status(f"Starting {what}"):
            while not condition():
                if self._signals.count:
                    raise _StopAskedError
                self._supervisor.check()
                if time.monotonic() > deadline:
                    raise StackError(
                        f"{what} did not start in {seconds:.0f} s; see {self._settings.logs_dir}."
                    )
                time.sleep(_POLL)

    def _redis_answers(self) -> bool:
        try:
            with connect(self._settings, "up") as redis:
                return bool(redis.ping())
        except RedisError:
            return False

    def _write_state(self) -> None:
        processes = tuple(child.describe() for child in self._supervisor.children)
        state.write(
            self._settings,
            state.StackState(os.getpid(), self._url, processes),
        )


def _program() -> list[str]:
    """This program as a command line. The installed script where there is one: `ps` shows it."""
    script = Path(sys.executable).with_name("minivault")
    if script.is_file():
        return [sys.executable, str(script)]
    return [sys.executable, "-P", "-m", "cli"]


def _require_free_port(settings: Settings) -> None:
    """Find out before anything slow is done whether the API will be able to serve.

    Raises:
        StackError: it can't listen where the settings want it to, or can't be reached there.
    """
    with listen(settings.host, settings.port) as probe:
        try:
            # In a bare network namespace one can listen while the loopback interface is down.
            socket.create_connection(probe.getsockname()[:2], timeout=2).close()
        except OSError as error:
            raise StackError(
                f"Port {settings.port} on {settings.host} can't be reached "
                f"({error.strerror or error}). Check that the network interface is up."
            ) from error
