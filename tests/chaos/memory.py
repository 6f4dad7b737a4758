"""How the processes' memory grew."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.chaos.target import Target

_INTERVAL: Final = 2.0
_WARM_SECONDS: Final = 30.0
"""A process has loaded what it needs by then, and served."""
LIMITS_MB: Final = {
    "supervisor": 20,
    "api": 50,
    "redis": 50,
    "worker": 1200,
    "worker's parent": 20,
}
"""Growth beyond this fails a run. Redis keeps the logs of an hour; what a worker holds of keys and
values is taken from the kernel as tokens are written: 512 MB of prompts and answers gone by, and
23 KB for each of 850 tokens in 32 slots."""


@dataclass
class Life:
    """One process, from when it was warm. Resident memory in MB."""

    role: str
    pid: int
    seconds: float = 0.0
    first: float = 0.0
    last: float = 0.0
    highest: float = 0.0

    @property
    def growth(self) -> float:
        return self.last - self.first


@dataclass
class Memory:
    lives: dict[int, Life] = field(default_factory=dict)

    async def watch(self, target: Target) -> None:
        """Look at every process every two seconds, until cancelled."""
        while True:
            for role, pid in await asyncio.to_thread(target.pids):
                self._look("worker's parent" if role == "worker" else role, pid)
            for worker in await asyncio.to_thread(target.living):
                self._look("worker", worker.pid)
            await asyncio.sleep(_INTERVAL)

    def _look(self, role: str, pid: int) -> None:
        try:
            used = psutil.Process(pid).memory_info().rss / 2**20
        except psutil.Error:
            return
        life = self.lives.setdefault(pid, Life(role, pid))
        life.seconds += _INTERVAL
        if life.seconds <= _WARM_SECONDS:
            life.first = used
        life.last = used
        life.highest = max(life.highest, used)


def longest_lives(lives: Iterable[Life]) -> dict[str, Life]:
    """Of each role the process that lived longest: growth shows best there."""
    found: dict[str, Life] = {}
    for life in lives:
        if life.role not in found or life.seconds > found[life.role].seconds:
            found[life.role] = life
    return found


def too_much(lives: Iterable[Life]) -> list[str]:
    return [
        f"{life.role} {life.pid} grew by {life.growth:.0f} MB in {life.seconds:.0f} s"
        for life in lives
        if life.growth > LIMITS_MB[life.role]
    ]
