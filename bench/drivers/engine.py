"""The engine in process: `bench.engine`, in a child that is told over pipes what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bench.measure import Stream
from bench.workload import Ask


@dataclass(frozen=True)
class EngineAlone:
    process: subprocess.Popen[bytes]
    """Of `python -m bench.engine`. Clocks of processes are one."""

    def run(
        self, asks: Sequence[Ask], *, concurrency: int | None = None, seconds: float | None = None
    ) -> list[Stream]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"asks": asks, "concurrency": concurrency, "seconds": seconds}
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            sys.exit("The engine's process has ended; see its message above.")
        return msgspec.json.decode(line, type=list[Stream])
