"""Compiled kernels on disk: one file for each level, made once, whole or not there.

A file's name is `<level>-<what it was made from>-<its own sha256>.so`, the last two cut to 16
digits. So nothing else has to be written or read to know that it is the right one and whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shared.errors import KernelsUnavailableError
from worker.engine.native import compiler, isa
from worker.engine.native.compiler import NotCompiledError
from worker.engine.native.isa import Level

PREBUILT: Final = Path(__file__).with_name("prebuilt")
"""Filled by `python -m worker.engine.native` when an image is built; else empty."""
_DIGITS: Final = 16
_PARTIAL: Final = ".partial"


@dataclass(frozen=True)
class Made:
    """A library that is there and whole."""

    path: Path
    level: str
    source: Literal["prebuilt", "cache", "compiled"]


class Kernels:
    """Those for this machine: the image's, or in a folder where they are compiled into."""

    def __init__(self, cache: Path, levels: tuple[Level, ...] = ()) -> None:
        """`cache` need not exist; `levels`: what to try, the best first; this machine's."""
        self._cache = cache
        self._levels = levels or isa.of_this_machine()

    def find(self) -> Made | None:
        """The best for this CPU, if it is there. Needs no compiler; milliseconds."""
        return self._find(self._levels[0])

    def build(self, told: Callable[[str], None]) -> Made:
        """Compile the best that the compiler can, unless it is there already.

        Any number of processes may call this at once: one does the work, the others wait. A
        crash leaves nothing that looks finished. `told` is told what is being done.

        Raises:
            KernelsUnavailableError: it can't be done; the message says what to do.
        """
        try:
            with self._locked(told):
                return self._build(told)
        except OSError as error:
            raise KernelsUnavailableError(f"{self._cache} can't be written: {error}.") from error

    def _build(self, told: Callable[[str], None]) -> Made:
        refused: list[NotCompiledError] = []
        for level in self._levels:
            if found := self._find(level):
                return found
            compiler.find_compiler()  # before we say that it is at work
            if not refused:
                told("Compiling kernels for this CPU")
            try:
                return Made(make(level, self._cache), level.name, "compiled")
            except NotCompiledError as error:  # an old compiler does not know the newest levels
                refused.append(error)
        raise refused[0]

    def _find(self, level: Level) -> Made | None:
        stem = f"{level.name}-{digest(level)}-"
        if path := _whole(PREBUILT, stem):
            return Made(path, level.name, "prebuilt")
        if path := _whole(self._cache, stem):
            return Made(path, level.name, "cache")
        return None

    @contextmanager
    def _locked(self, told: Callable[[str], None]) -> Iterator[None]:
        self._cache.mkdir(parents=True, exist_ok=True)
        with (self._cache / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told("Waiting for another process that compiles kernels")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def make(level: Level, folder: Path) -> Path:
    """Compile into a folder that no other process compiles into meanwhile; returns the file.

    What was there for this level goes: it is of other sources, or damaged.

    Raises:
        KernelsUnavailableError: the compiler fails, or there is none.
        OSError: the folder can't be written.
    """
    for left in folder.glob(f"*{_PARTIAL}"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        dir=folder, suffix=_PARTIAL, ignore_cleanup_errors=True
    ) as work:
        made = compiler.compile_into(Path(work), level)
        for old in folder.glob(f"{level.name}-{'?' * _DIGITS}-{'?' * _DIGITS}.so"):
            old.unlink(missing_ok=True)
        return made.rename(folder / f"{level.name}-{digest(level)}-{_sha256(made)}.so")


def digest(level: Level) -> str:
    """Of all that decides what comes out, but the compiler: whoever finds a file may have none."""
    found = hashlib.sha256()
    for part in (platform.system(), platform.machine(), *compiler.FLAGS, *level.flags):
        found.update(f"{part}\0".encode())
    for source in compiler.sources():
        data = source.read_bytes()
        found.update(f"{source.name}\0{len(data)}\0".encode() + data)
    return found.hexdigest()[:_DIGITS]


def _whole(folder: Path, stem: str) -> Path | None:
    for path in folder.glob(f"{stem}*.so"):
        try:
            if path.stem == stem + _sha256(path):
                return path
        except FileNotFoundError:
            continue  # another process has just replaced it
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
