"""Moments at which functions of a running process are entered and left, for `bench.hops`.

They are wrapped from outside, so the product has no code for it. Moments go to a mapped file, which
survives whatever end the process takes, on a clock that the machine's processes share.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import mmap
import struct
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_RECORD: Final = struct.Struct("=QQ")
_ROOM: Final = 1 << 24


@dataclass(frozen=True)
class Probe:
    """`where` is `module:Class.function`; only calls for which `only` holds are noted."""

    where: str
    enters: str = ""
    """What it means that the function is entered; empty: nothing of interest."""
    leaves: str = ""
    only: Callable[[tuple[Any, ...], Any], bool] = lambda _given, _result: True
    """Told the arguments, and what was returned (None before)."""


def install(probes: list[Probe], file: Path) -> None:
    """Wrap what the probes name; labels are counted in the order of `labels`."""
    with file.open("wb") as empty:
        empty.truncate(_ROOM)
    with file.open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), _ROOM)
    cursor = iter(range(0, _ROOM, _RECORD.size))
    numbers = {label: number for number, label in enumerate(labels(probes), 1)}

    def note(label: str, given: tuple[Any, ...], result: Any, probe: Probe) -> None:
        if label and probe.only(given, result):
            _RECORD.pack_into(memory, next(cursor), numbers[label], time.monotonic_ns())

    for probe in probes:
        _wrap(probe, note)


def labels(probes: list[Probe]) -> list[str]:
    return [label for probe in probes for label in (probe.enters, probe.leaves) if label]


def read(probes: list[Probe], file: Path) -> list[tuple[float, str]]:
    """What was noted, in order: seconds on the monotonic clock, and the label."""
    known = labels(probes)
    found = []
    for number, nanoseconds in _RECORD.iter_unpack(file.read_bytes()):
        if not number:
            break
        found.append((nanoseconds / 1e9, known[number - 1]))
    return found


def _wrap(probe: Probe, note: Callable[[str, tuple[Any, ...], Any, Probe], None]) -> None:
    module, _, path = probe.where.partition(":")
    *classes, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for each in classes:
        holder = getattr(holder, each)
    inner = getattr(holder, name)
    wrapper: Any
    if inspect.iscoroutinefunction(inner):

        async def wrapper(*given: Any, **named: Any) -> Any:
            note(probe.enters, given, None, probe)
            result = await inner(*given, **named)
            note(probe.leaves, given, result, probe)
            return result

    elif inspect.isasyncgenfunction(inspect.unwrap(inner)):

        @asynccontextmanager
        async def wrapper(*given: Any, **named: Any) -> Any:
            note(probe.enters, given, None, probe)
            manager: AbstractAsyncContextManager[Any] = inner(*given, **named)
            async with manager as result:
                note(probe.leaves, given, result, probe)
                yield result

    else:

        def wrapper(*given: Any, **named: Any) -> Any:
            note(probe.enters, given, None, probe)
            result = inner(*given, **named)
            note(probe.leaves, given, result, probe)
            return result

    setattr(holder, name, functools.wraps(inner)(wrapper))
