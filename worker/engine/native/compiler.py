"""The machine's C++ compiler: which one, with what flags, and under whose watch."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from shared.errors import KernelsUnavailableError
from worker.engine.native import watch
from worker.engine.native.isa import Level

SOURCES: Final = Path(__file__).with_name("src")
FLAGS: Final = (
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread"),
    # How often a product and a sum are rounded is for the source to say, not for the compiler.
    "-ffp-contract=off",
)
_CANDIDATES: Final = ("c++", "g++", "clang++")
_SECONDS: Final = 600.0
"""For a compiler that hangs. One that works takes seconds, but beside a busy engine many more."""
_REMEDY: Final = "Install g++ or clang, or the Python package ziglang, or set CXX."


@dataclass(frozen=True)
class Compiler:
    command: tuple[str, ...]
    is_zig: bool = False

    @property
    def name(self) -> str:
        return "ziglang" if self.is_zig else self.command[0]

    def flags_for(self, level: Level) -> tuple[str, ...]:
        return (f"-mcpu={level.zig}",) if self.is_zig else level.flags


class NotCompiledError(KernelsUnavailableError):
    """The compiler refuses the sources or the flags."""


def find_compiler() -> Compiler:
    """$CXX, what is on the PATH, or the one that the package ziglang brings.

    Raises:
        KernelsUnavailableError: there is none.
    """
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]):
            return Compiler(tuple(chosen))
        raise KernelsUnavailableError(f"CXX names {chosen[0]}, which can't be run. {_REMEDY}")
    for name in _CANDIDATES:
        if path := shutil.which(name):
            return Compiler((path,))
    if find_spec("ziglang"):
        return Compiler((sys.executable, "-I", "-m", "ziglang", "c++"), is_zig=True)
    raise KernelsUnavailableError(f"There is no C++ compiler here. {_REMEDY}")


def sources() -> list[Path]:
    """Everything that is compiled or included."""
    return sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")])


def compile_into(
    folder: Path, level: Level, *, extra: tuple[str, ...] = (), seconds: float = _SECONDS
) -> Path:
    """Compile all sources into one shared library, at a low priority; returns its path.

    Should this process end, however that comes about, the compiler does too; what it leaves is
    in `folder`.

    Raises:
        KernelsUnavailableError: there is no compiler, it takes too long, or (NotCompiledError)
            it refuses.
    """
    path = folder / "kernels.so"
    inputs = [str(source) for source in sources() if source.suffix == ".cpp"]
    compiler = find_compiler()
    flags = [*FLAGS, *compiler.flags_for(level), *extra]
    command = [*compiler.command, *flags, "-o", str(path), *inputs]
    watched = [sys.executable, "-I", watch.__file__, str(seconds), *command]
    with subprocess.Popen(  # noqa: S603 - our own command line
        watched,
        stdin=subprocess.PIPE,  # never written to: it ends when we do
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"},
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode == watch.TOO_LATE:
        raise KernelsUnavailableError(f"{compiler.name} took more than {seconds:g} s.")
    if process.returncode != 0:
        raise NotCompiledError(
            f"{compiler.name} can't compile them for {level.name}: {_first_error(output)}"
        )
    return path


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), (lines or ["no output"])[-1])
