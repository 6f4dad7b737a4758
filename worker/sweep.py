"""Looks after what nobody looks after: jobs of dead workers, unheard wishes, unwritten rows.

Every worker sweeps. Whatever one finds it claims first, so two that find the same do it once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared import names
from shared.claim import worker_of
from shared.errors import WaitedTooLongError
from shared.events import FinishReason
from shared.ledger import Ledger
from shared.logging import get_logger
from worker.attempts import Attempts
from worker.loop import EngineLoop
from worker.reconcile import Reconciler
from worker.rescue import Rescue
from worker.run import Outcome, Run
from worker.thread import SideThread

INTERVAL: Final = 2
"""Seconds between two rounds that nobody called for."""
_STEADY_SECONDS: Final = 5.0
"""Of contact with Redis before silence is held against anybody: after an interruption all
others get the time for two heartbeats."""
_LOST_SECONDS: Final = 3.0
"""After this long a claim of ours for which there is no run is one whose reply we never got."""
_CHORES_EVERY: Final = 5
_MAX_UNSAVED: Final = 64
_MAX_CALLS: Final = 1000


class Sweep(SideThread):
    def __init__(
        self,
        redis: Redis,
        *,
        worker: str,
        ledger: Ledger,
        attempts: Attempts,
        rescue: Rescue,
        loop: EngineLoop,
        on_lost: Callable[[Run], None],
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("sweep", on_crash)
        self._redis = redis
        self._worker = worker
        self._ledger = ledger
        self._attempts = attempts
        self._rescue = rescue
        self._reconciler = Reconciler(redis, rescue)
        self._loop = loop
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._steady_since: float | None = None
        self._last_round = 0.0
        self._ownerless: dict[str, float] = {}
        """Claims of ours without a run, and since when."""
        self._rounds = 0

    def stop(self) -> None:
        self._stopped.set()
        with suppress(RedisError):
            self._redis.rpush(names.calls(self._worker), "")  # else it listens to the end
        self.join()
        with suppress(RedisError):
            self._redis.delete(names.calls(self._worker))

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._round()
                self._listen()
            except RedisError as error:
                get_logger().warning("no sweep without Redis", reason=str(error))
                self._steady_since = None
                self._stopped.wait(0.5)

    def _listen(self) -> None:
        """Wait for a call or for the next round. One round answers all calls that have come."""
        lists = [names.calls(self._worker), names.CALLS]
        if self._redis.blpop(lists, timeout=INTERVAL):
            for name in lists:
                self._redis.lpop(name, _MAX_CALLS)

    def _round(self) -> None:
        steady = self._is_steady()
        runs = self._attempts.all()  # before the owners: a run begins after its claim
        owners = self._ledger.owners()
        self._let_go_of_lost(runs, owners)
        self._cancel(runs, owners)
        self._recover_own(runs, owners)
        self._recover_dead(owners, steady=steady)
        if self._redis.set(names.SWEEP, self._worker, nx=True, px=INTERVAL * 900):
            self._common_round(steady=steady)

    def _is_steady(self) -> bool:
        time_now = time.monotonic()
        if time_now - self._last_round > 3 * INTERVAL:  # so long ago: this process stood still
            self._steady_since = None
        self._last_round = time_now
        self._steady_since = self._steady_since or time_now
        return time_now - self._steady_since > _STEADY_SECONDS

    def _let_go_of_lost(self, runs: list[Run], owners: dict[str, str]) -> None:
        for run in runs:
            if owners.get(run.id) != run.key and run.ended is None:
                self._on_lost(run)

    def _cancel(self, runs: list[Run], owners: dict[str, str]) -> None:
        mine = {run.id: run for run in runs}
        for job_id in self._ledger.to_cancel():
            if job_id in mine:
                self._loop.cancel(mine[job_id])
            elif job_id not in owners:
                self._rescue.recover(job_id)

    def _recover_own(self, runs: list[Run], owners: dict[str, str]) -> None:
        """Claims of ours that we know nothing of: the reply to the taking was lost."""
        known = {run.key for run in runs}
        time_now = time.monotonic()
        unknown = {
            job_id: owner
            for job_id, owner in owners.items()
            if worker_of(owner) == self._worker and owner not in known
        }
        self._ownerless = {
            owner: self._ownerless.get(owner, time_now) for owner in unknown.values()
        }
        for job_id, owner in unknown.items():
            if time_now - self._ownerless[owner] > _LOST_SECONDS:
                self._rescue.recover(job_id, owner=owner)

    def _recover_dead(self, owners: dict[str, str], *, steady: bool) -> None:
        """Jobs of workers that were seen to die, or have been silent for too long."""
        others = {worker_of(owner) for owner in owners.values()} - {self._worker}
        silent = {name for name in others if not self._redis.exists(names.worker_info(name))}
        dead = {name for name in silent if steady or self._redis.exists(names.death(name))}
        for job_id, owner in owners.items():
            if worker_of(owner) in dead:
                self._rescue.recover(job_id, owner=owner, died=True)

    def _common_round(self, *, steady: bool) -> None:
        """What one worker does for all."""
        time_now = self._ledger.time()
        for job_id in self._ledger.overdue(time_now):
            self._rescue.end(job_id, Outcome(FinishReason.ERROR, WaitedTooLongError()))
        if steady:  # else whoever follows could not say so
            for job_id in self._ledger.unattended(time_now):
                self._ledger.give_up(job_id)
        for job_id in self._ledger.unsaved(_MAX_UNSAVED):
            self._rescue.recover(job_id)
        self._rounds += 1
        if self._rounds % _CHORES_EVERY == 0:
            for job_id in self._ledger.stray():
                self._rescue.recover(job_id)
            self._reconciler.look()
