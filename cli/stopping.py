"""The order in which a stack stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

KILL_MARGIN_SECONDS: Final = 3.5
"""Beyond the grace time a process has for itself, before it is killed."""
_HEAD_START_SECONDS: Final = 0.5
_REDIS_STOP_SECONDS: Final = 60.0
"""The embedded server is the last, and may have a long file to write."""
_POLL: Final = 0.05


class Stoppable(Protocol):
    role: str
    name: str

    @property
    def running(self) -> bool: ...

    def terminate(self) -> None:
        """Ask it to stop."""

    def kill(self) -> None:
        """Stop it, and whatever it has started, at once."""


def stop_in_order(
    processes: Sequence[Stoppable],
    *,
    grace: float,
    report: Callable[[str], None],
    hurry: Callable[[], bool],
) -> None:
    """API first, so that nothing new comes in; Valkey last, because the others write to it.

    The workers are told soon after the API, not after its end: running answers end, or are
    handed back, while the API still relays them. `grace` is in seconds; when `hurry` says so,
    what still runs is killed.
    """

    def kill(those: Iterable[Stoppable]) -> None:
        for process in those:
            if process.running:
                report(f"{process.name} did not stop in time and is killed")
                process.kill()

    apis = [process for process in processes if process.role == "api"]
    workers = [process for process in processes if process.role == "worker"]
    redis = [process for process in processes if process.role == "redis"]
    _terminate(apis)
    wait(apis, seconds=_HEAD_START_SECONDS, hurry=hurry)
    _terminate(workers)
    wait([*apis, *workers], seconds=grace + KILL_MARGIN_SECONDS, hurry=hurry)
    kill([*apis, *workers])
    _terminate(redis)
    wait(redis, seconds=_REDIS_STOP_SECONDS, hurry=hurry)
    kill(redis)


def wait(processes: Sequence[Stoppable], *, seconds: float, hurry: Callable[[], bool]) -> None:
    """Until all have ended, the time is over, or `hurry` says not to wait any more."""
    deadline = time.monotonic() + seconds
    while any(each.running for each in processes) and time.monotonic() < deadline and not hurry():
        time.sleep(_POLL)


def _terminate(processes: Iterable[Stoppable]) -> None:
    for process in processes:
        process.terminate()
