"""How long a client waits when the worker of its stream is killed with SIGKILL.

Under `minivault up`, where somebody tells the other worker; without anybody who does, where the
dead one's heartbeat has to run out; and with one worker, whose successor has to start first.
"""

import argparse
import asyncio
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from redis import Redis
from rich.console import Console

from bench.measure import quantile
from tests.chaos import document
from tests.chaos.by_hand import running_by_hand
from tests.chaos.clients import Client
from tests.chaos.living import Living, jobs_of
from tests.chaos.pauses import pause
from tests.chaos.prompts import Request
from tests.chaos.report import table
from tests.chaos.start import folder_of_its_own
from tests.chaos.target import Target, running_target, wait_for

_STREAMS: Final = 8
_TOKENS: Final = 64
_ARRIVAL_SECONDS: Final = 0.5
"""What was on its way when the worker died may still arrive."""
_WELL_SECONDS: Final = 60.0

console = Console(highlight=False, soft_wrap=True)


class Service(Protocol):
    address: tuple[str, int]
    redis: Redis

    def living(self) -> list[Living]: ...
    def is_well(self) -> bool: ...


@dataclass
class Situation:
    name: str
    run: Callable[[Path], AbstractAsyncContextManager[Any]]
    whole: bool
    """The worker's parent is killed too, so that it does not tell nor start a successor."""
    target: float = math.inf
    """The p50 that is promised, in seconds."""
    pauses: list[float] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        return quantile(self.pauses, 0.5) <= self.target


def main() -> None:
    arguments = _arguments()
    folder = folder_of_its_own("recovery")
    situations = [
        Situation("`minivault up`, two workers", running_up(2), whole=False, target=2.0),
        Situation("the same, with the worker's parent", running_up(2), whole=True, target=2.0),
        Situation("two workers, nobody tells", running_by_hand, whole=True, target=15.0),
        Situation("`minivault up`, one worker", running_up(1), whole=False),
        Situation("the same, with the worker's parent", running_up(1), whole=True),
    ]
    asyncio.run(_measure(situations, folder, arguments.kills))
    text = _report(situations, arguments.kills)
    console.print(f"\n{text}\n", markup=False)
    if arguments.write:
        document.write("recovery", text)
    if not all(situation.kept for situation in situations):
        console.print(f"FAILED: slower than promised. Logs and data are in {folder}.")
        sys.exit(1)
    shutil.rmtree(folder)


def running_up(workers: int) -> Callable[[Path], AbstractAsyncContextManager[Target]]:
    return lambda folder: running_target(folder, workers=workers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=__doc__)
    parser.add_argument("--kills", type=int, default=8, help="in each situation")
    parser.add_argument("--write", action="store_true", help="put it into docs/reliability.md")
    return parser.parse_args()


async def _measure(situations: Sequence[Situation], folder: Path, kills: int) -> None:
    for number, situation in enumerate(situations):
        console.print(f"{situation.name} ...", markup=False)
        async with situation.run(folder / str(number)) as service:
            for _ in range(kills):
                found = await _kill_one(service, whole=situation.whole)
                situation.pauses += found
                console.print("  " + " ".join(f"{seconds:.2f}" for seconds in found))


async def _kill_one(service: Service, *, whole: bool) -> list[float]:
    """The pauses of the streams whose worker is killed."""
    bodies = [
        {"prompt": f"{number}, {number + 1},", "raw": True, "max_tokens": _TOKENS, "temperature": 0}
        for number in range(_STREAMS)
    ]
    clients = [Client(service.address, Request(n, body)) for n, body in enumerate(bodies)]
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.run())
        if not await wait_for(lambda: all(each.record.streaming for each in clients), 60):
            raise TimeoutError("the streams do not begin")
        worker, jobs = await asyncio.to_thread(_busiest, service)
        began = time.monotonic()
        for pid in (worker.parent, worker.pid) if whole else (worker.pid,):
            os.kill(pid, signal.SIGKILL)
    hit = [client.record for client in clients if client.record.job_id in jobs]
    broken = [record.trouble for record in hit if record.ending != "done"]
    if broken:
        raise RuntimeError(f"streams of {worker.name} did not end: {broken}")
    if not await wait_for(service.is_well, _WELL_SECONDS):
        raise TimeoutError("no new worker came")
    return [pause(record, began, began + _ARRIVAL_SECONDS) for record in hit]


def _busiest(service: Service) -> tuple[Living, set[str]]:
    """The worker that has most jobs, and these."""
    found = [(worker, jobs_of(service.redis, worker.name)) for worker in service.living()]
    return max(found, key=lambda each: len(each[1]))


def _report(situations: Sequence[Situation], kills: int) -> str:
    command = shlex.join(["python", "-m", "tests.chaos.recovery", *sys.argv[1:]])
    lines = [
        [
            situation.name,
            str(kills),
            str(len(situation.pauses)),
            f"{quantile(situation.pauses, 0.5):.1f}",
            f"{quantile(situation.pauses, 0.99):.1f}",
            f"{max(situation.pauses):.1f}",
            "" if situation.target == math.inf else f"{situation.target:.0f}",
        ]
        for situation in situations
    ]
    head = ["", "kills", "streams", "pause p50, s", "p99, s", "longest, s", "p50 promised"]
    return f"{document.provenance(command)}\n\n{table(head, lines)}"


if __name__ == "__main__":
    main()
