"""How each fault is brought about."""

import asyncio
import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing, suppress
from typing import Final

from tests.chaos.clients import Client
from tests.chaos.crowd import Crowd
from tests.chaos.living import Living, jobs_of, runs
from tests.chaos.record import Record
from tests.chaos.schedule import Kind
from tests.chaos.strike import Strike
from tests.chaos.target import Target, wait_for

_VICTIM_SECONDS: Final = 60.0
"""How long a fault waits for somebody to hit."""
_GONE_SECONDS: Final = 15.0
_AFTERMATH_SECONDS: Final = 0.5
"""What was on its way when a blow fell may still arrive."""
_DROP_WITHIN_BYTES: Final = 600
_DROP_WITHIN_SECONDS: Final = 3.0
_DROP_NEXT: Final = 3
_SHARE: Final = 0.5


class NobodyToHitError(Exception):
    """There was no process of the kind in time: something has not come back."""


class Faults:
    def __init__(self, target: Target, crowd: Crowd) -> None:
        self._target = target
        self._crowd = crowd
        self._ways: dict[Kind, Callable[[Strike, random.Random], Awaitable[None]]] = {
            Kind.WORKER_KILL: self._kill_worker,
            Kind.WHOLE_WORKER_KILL: self._kill_whole_worker,
            Kind.PARENT_KILL: self._kill_parent,
            Kind.WORKER_FREEZE: self._freeze_worker,
            Kind.WORKER_TERM: self._stop_worker,
            Kind.API_KILL: self._kill_api,
            Kind.VALKEY_KILL: self._kill_valkey,
            Kind.VALKEY_OUTAGE: self._keep_valkey_away,
            Kind.SUPERVISOR_KILL: self._kill_supervisor,
            Kind.REDIS_CUT: self._cut_redis,
            Kind.REDIS_STALL: self._stall_redis,
            Kind.CLIENT_DROP: self._drop_clients,
            Kind.SLOW_READER: self._stop_reading,
            Kind.DATABASE_LOCK: self._lock_database,
            Kind.DISK_FULL: self._fill_disk,
        }

    async def strike(self, strike: Strike) -> None:
        """Bring a fault about, until it is over.

        Raises:
            NobodyToHitError: see there.
        """
        strike.hit = [client.record for client in self._crowd.streaming()]
        await self._ways[strike.fault.kind](strike, random.Random(strike.fault.seed))
        strike.ended = time.monotonic()

    async def _kill_worker(self, strike: Strike, draw: random.Random) -> None:
        worker = await self._worker(draw)
        await self._blow(strike, worker, [worker.pid], signal.SIGKILL)

    async def _kill_whole_worker(self, strike: Strike, draw: random.Random) -> None:
        worker = await self._worker(draw)
        # The parent first: it must not tell of the death, nor start a successor.
        await self._blow(strike, worker, [worker.parent, worker.pid], signal.SIGKILL)

    async def _kill_parent(self, strike: Strike, draw: random.Random) -> None:
        worker = await self._worker(draw)
        await self._blow(strike, worker, [worker.parent], signal.SIGKILL)
        await self._gone(worker.pid)

    async def _freeze_worker(self, strike: Strike, draw: random.Random) -> None:
        worker = await self._worker(draw)
        await self._blow(strike, worker, [worker.pid], signal.SIGSTOP)
        try:
            await asyncio.sleep(strike.fault.seconds)
        finally:
            with suppress(ProcessLookupError):  # its supervisor may have died in between
                os.kill(worker.pid, signal.SIGCONT)

    async def _stop_worker(self, strike: Strike, draw: random.Random) -> None:
        worker = await self._worker(draw)
        await self._blow(strike, worker, [worker.parent], signal.SIGTERM)
        await self._gone(worker.pid)

    async def _kill_api(self, strike: Strike, draw: random.Random) -> None:
        await self._kill(strike, "api")

    async def _kill_valkey(self, strike: Strike, draw: random.Random) -> None:
        await self._kill(strike, "redis")

    async def _keep_valkey_away(self, strike: Strike, draw: random.Random) -> None:
        assert self._target.outside is not None
        self._target.outside.kill()
        await asyncio.sleep(strike.fault.seconds)
        self._target.outside.start()

    async def _kill_supervisor(self, strike: Strike, draw: random.Random) -> None:
        async with self._target.starting:
            strike.began = time.monotonic()
            supervisor = self._target.stack.supervisor
            supervisor.kill()
            await asyncio.to_thread(supervisor.wait)
            await asyncio.sleep(strike.fault.seconds)
            await self._target.start()

    async def _cut_redis(self, strike: Strike, draw: random.Random) -> None:
        assert self._target.proxy is not None
        await self._target.proxy.cut(strike.fault.seconds, draw)

    async def _stall_redis(self, strike: Strike, draw: random.Random) -> None:
        assert self._target.proxy is not None
        await self._target.proxy.stall(strike.fault.seconds)

    async def _drop_clients(self, strike: Strike, draw: random.Random) -> None:
        victims = _some(self._crowd.active, draw)
        for client in victims:
            client.drop_after(draw.randrange(_DROP_WITHIN_BYTES))
        self._crowd.drop_next(draw.randrange(_DROP_WITHIN_BYTES) for _ in range(_DROP_NEXT))
        strike.hit = _streaming(victims)
        await asyncio.sleep(_DROP_WITHIN_SECONDS)

    async def _stop_reading(self, strike: Strike, draw: random.Random) -> None:
        victims = _some(self._crowd.active, draw)
        # Their own pause is their own doing; what counts is that nobody else has one.
        others = [client for client in self._crowd.active if client not in victims]
        strike.hit = _streaming(others)
        await asyncio.gather(*(client.stop_reading(strike.fault.seconds) for client in victims))

    async def _lock_database(self, strike: Strike, draw: random.Random) -> None:
        def lock() -> sqlite3.Connection:
            connection = sqlite3.connect(
                self._target.database, timeout=30, isolation_level=None, check_same_thread=False
            )
            connection.execute("BEGIN EXCLUSIVE")
            return connection

        with closing(await asyncio.to_thread(lock)):
            await asyncio.sleep(strike.fault.seconds)

    async def _fill_disk(self, strike: Strike, draw: random.Random) -> None:
        """No worker that lives now can write to a file, as on a full disk."""
        hindered = {}
        for worker in self._target.living():
            with suppress(ProcessLookupError):  # another fault was quicker
                hindered[worker.pid] = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, hindered[worker.pid][1]))
        try:
            await asyncio.sleep(strike.fault.seconds)
        finally:
            for pid, limits in hindered.items():
                with suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    async def _worker(self, draw: random.Random) -> Living:
        """One that is ready."""
        found: list[Living] = []

        def look() -> bool:
            found[:] = self._target.living()
            return bool(found)

        if not await wait_for(look, _VICTIM_SECONDS):
            raise NobodyToHitError("no worker came back")
        return draw.choice(found)

    async def _blow(
        self, strike: Strike, worker: Living, pids: Iterable[int], number: signal.Signals
    ) -> None:
        """Send processes of a worker a signal; it hits the streams of the worker's jobs."""
        jobs = await asyncio.to_thread(jobs_of, self._target.redis, worker.name)
        strike.hit = [
            client.record for client in self._crowd.streaming() if client.record.job_id in jobs
        ]
        strike.began = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):  # another fault was quicker
                os.kill(pid, number)
        await asyncio.sleep(_AFTERMATH_SECONDS)

    async def _kill(self, strike: Strike, role: str) -> None:
        def kill() -> bool:
            strike.began = time.monotonic()
            pid = dict(self._target.pids()).get(role)
            if pid is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
            return False

        if not await wait_for(kill, _VICTIM_SECONDS):
            raise NobodyToHitError(f"no {role} came back")
        await asyncio.sleep(_AFTERMATH_SECONDS)

    async def _gone(self, pid: int) -> None:
        await wait_for(lambda: not runs(pid), _GONE_SECONDS)


def _some(clients: Sequence[Client], draw: random.Random) -> list[Client]:
    return draw.sample(clients, max(1, round(len(clients) * _SHARE))) if clients else []


def _streaming(clients: Iterable[Client]) -> list[Record]:
    return [client.record for client in clients if client.record.streaming]
