"""One part of a run: a stack, its streams, its faults, and what they have cost."""

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from shared.errors import DecodeError, JobNotFoundError
from shared.events import AnyEvent
from shared.log import EventLog
from tests.chaos.crowd import Crowd
from tests.chaos.faults import Faults, NobodyToHitError
from tests.chaos.memory import Life, Memory, too_much
from tests.chaos.prompts import Request
from tests.chaos.record import Record
from tests.chaos.residue import residue, unfinished_in_rq
from tests.chaos.schedule import Leg
from tests.chaos.strike import Strike, mark_overlaps
from tests.chaos.target import Target, wait_for
from tests.chaos.verdict import Answer, Counts, Row, judge

_STREAMING: Final = 4
"""A fault waits until so many streams have tokens, unless it is to strike on top of another."""
_FLOWING_SECONDS: Final = 2.0
"""And until the last event of each is no older than this: each pause has one reason then."""
_CALM_SECONDS: Final = 30.0
_WELL_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 90.0


@dataclass
class LegResult:
    leg: Leg
    records: Sequence[Record]
    strikes: Sequence[Strike]
    lives: Sequence[Life]
    counts: Counts
    seconds: float
    """From the first stream to the end of the last."""


class LegRun:
    def __init__(
        self, target: Target, leg: Leg, *, at_once: int, until: float, say: Callable[[str], None]
    ) -> None:
        """`until`, monotonic seconds: no stream begins and no fault strikes after it."""
        self._target = target
        self._leg = leg
        self._at_once = at_once
        self._until = until
        self._say = say
        self._strikes: list[Strike] = []
        self._troubles: list[str] = []

    async def run(
        self,
        asked: Sequence[Request],
        undisturbed: Mapping[int, Answer],
        earlier: Sequence[Record],
    ) -> LegResult:
        """`earlier` are the streams that this stack has served before."""
        memory = Memory()
        watching = asyncio.create_task(memory.watch(self._target))
        began = time.monotonic()
        crowd = Crowd(self._target.address, asked, at_once=self._at_once, allowed=self._at_once)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(crowd.run())
            await self._disturb(crowd)
            crowd.allow(math.inf)
        seconds = time.monotonic() - began
        self._say(f"{crowd.finished} streams have ended; waiting for what is left to settle")
        records = [*earlier, *crowd.records]
        left = await self._settle(records)
        watching.cancel()
        mark_overlaps(self._strikes)
        counts = await asyncio.to_thread(self._judge, records, undisturbed)
        grown = too_much(memory.lives.values())
        counts.dirty += len(left)
        counts.not_recovered += len(self._troubles)
        counts.memory += len(grown)
        counts.problems += [*left, *self._troubles, *grown]
        lives = list(memory.lives.values())
        return LegResult(self._leg, crowd.records, self._strikes, lives, counts, seconds)

    async def _disturb(self, crowd: Crowd) -> None:
        """One fault after the other, and some on top of the one before."""
        faults = Faults(self._target, crowd)
        lasting: set[asyncio.Task[None]] = set()
        for index, fault in enumerate(self._leg.faults):
            if lasting and not fault.overlaps:
                await asyncio.wait(lasting)
            await asyncio.sleep(fault.gap)
            share = (index + 1) / len(self._leg.faults)
            crowd.allow(self._at_once + share * (crowd.total - self._at_once))
            calm = not fault.overlaps and await self._calm(crowd)
            if time.monotonic() > self._until:
                crowd.give_up()
                break
            self._say(
                f"fault {index + 1}/{len(self._leg.faults)}: {fault.kind}"
                f"{' on top' if fault.overlaps else ''}; "
                f"{crowd.finished}/{crowd.total} streams have ended"
            )
            strike = Strike(fault, began=time.monotonic(), alone=calm)
            self._strikes.append(strike)
            lasting.add(asyncio.create_task(self._strike(faults, strike)))
        if lasting:
            await asyncio.wait(lasting)

    async def _strike(self, faults: Faults, strike: Strike) -> None:
        name = f"fault {strike.fault.number}, {strike.fault.kind}"
        try:
            await faults.strike(strike)
        except (NobodyToHitError, TimeoutError) as error:
            self._troubles.append(f"{name}: {error}")
            return
        if await self._target.wait_well(_WELL_SECONDS):
            strike.well = time.monotonic()
            return
        self._troubles.append(f"{name}: not all was there again {_WELL_SECONDS:.0f} s later")
        async with self._target.starting:
            if self._target.stack.supervisor.poll() is not None:
                self._troubles.append(f"`minivault up` had ended:\n{self._target.stack.output}")
                await self._target.start()

    async def _calm(self, crowd: Crowd) -> bool:
        """Wait until there are streams to disturb, and nothing disturbs them; False: in vain."""

        def calm() -> bool:
            streaming = [client.record for client in crowd.streaming()]
            since = time.monotonic() - _FLOWING_SECONDS
            enough = len(streaming) >= min(_STREAMING, crowd.total - crowd.finished)
            return enough and all(record.arrivals[-1].at > since for record in streaming)

        return await wait_for(calm, _CALM_SECONDS)

    async def _settle(self, records: Sequence[Record]) -> list[str]:
        """Wait until nothing is left behind; what is at the deadline."""
        left: list[str] = []
        ids = [record.job_id for record in records if record.ending == "done"]

        def tidy() -> bool:
            try:
                left[:] = [*residue(self._target.redis), *unfinished_in_rq(self._target.redis, ids)]
            except RedisError as error:
                left[:] = [f"Valkey does not answer: {error}"]
            return not left and {row.id for row in self._rows()} >= set(ids)

        await wait_for(tidy, _SETTLE_SECONDS)
        return left

    def _judge(self, records: Sequence[Record], undisturbed: Mapping[int, Answer]) -> Counts:
        events = EventLog(self._target.redis)
        logs: dict[str, list[AnyEvent]] = {}
        unreadable = []
        for record in records:
            try:
                _, logs[record.job_id] = events.read_job(record.job_id)
            except (JobNotFoundError, DecodeError) as error:
                unreadable.append(f"{record.job_id or record.request}: {error}")
        counts = judge(records, logs=logs, rows=self._rows(), undisturbed=undisturbed)
        counts.problems += unreadable
        return counts

    def _rows(self) -> list[Row]:
        with closing(sqlite3.connect(self._target.database, timeout=30)) as connection:
            found = connection.execute(
                "SELECT id, status, response, completion_tokens FROM interactions"
            )
            return [Row(*each) for each in found]
