"""Instruction sets that the kernels are compiled for, and which of them a CPU has.

Levels, not the compiler's idea of the CPU it runs on: an image carries all of them, and what one
machine has compiled into a shared folder is never loaded by one that lacks the instructions.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Level:
    name: str
    flags: tuple[str, ...]
    """What makes g++ and clang++ use it."""
    zig: str
    """The same as zig names it."""
    needs: frozenset[str]
    """What the CPU must have, as Linux names it in /proc/cpuinfo."""


_V3: Final = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_V4: Final = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

_X86_64: Final = (
    Level(
        "avx512vnni",
        ("-march=x86-64-v4", "-mavx512vnni"),
        "x86_64_v4+avx512vnni",
        _V4 | {"avx512_vnni"},
    ),
    Level("avxvnni", ("-march=x86-64-v3", "-mavxvnni"), "x86_64_v3+avxvnni", _V3 | {"avx_vnni"}),
    Level("avx2", ("-march=x86-64-v3",), "x86_64_v3", _V3),
    Level("x86-64", ("-march=x86-64",), "x86_64", frozenset()),
)
_ARM64: Final = (
    Level(
        "neon-dotprod",
        ("-march=armv8.2-a+dotprod",),
        "generic+v8_2a+dotprod",
        frozenset({"asimddp", "atomics"}),
    ),
    Level("arm64", ("-march=armv8-a",), "generic", frozenset()),
)
_APPLE: Final = (Level("neon-dotprod", ("-mcpu=apple-m1",), "apple_m1", frozenset()),)
"""Every Mac that torch still runs on has at least an M1."""
_OTHER: Final = (Level("generic", (), "baseline", frozenset()),)


def levels(system: str = sys.platform, machine: str = "") -> tuple[Level, ...]:
    """All levels of an architecture, the fastest first; of this machine's by default."""
    match (machine or platform.machine()).lower():
        case "x86_64" | "amd64":
            return _X86_64
        case "arm64" | "aarch64":
            return _APPLE if system == "darwin" else _ARM64
        case _:
            return _OTHER


def supported(features: frozenset[str], among: tuple[Level, ...]) -> tuple[Level, ...]:
    """Those that a CPU with such features can run, the fastest first; never none."""
    return tuple(level for level in among if level.needs <= features)


def of_this_machine() -> tuple[Level, ...]:
    """The levels that can run here, the fastest first."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    return supported(features_of(text), levels())


def features_of(cpuinfo: str) -> frozenset[str]:
    """What all CPUs that /proc/cpuinfo lists have in common; nothing if it lists none."""
    found = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*found) if found else frozenset()
