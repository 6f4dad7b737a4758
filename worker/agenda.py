"""Which model's queue a worker takes from next.

Jobs of the models in its memory come first, of one after the other. A model that is not there
is brought in at once where nothing has to go for it, or only what has nothing to do; else when
its jobs were passed over for `patience` seconds. One that another worker has is left to that
worker, unless this one has had nothing to do for a while: so workers specialise.

A model that came in keeps its place for `patience` seconds while it has work. Every model that
jobs wait for so gets its turn, and what is spent on loading stays small against what is
computed in between.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from redis import Redis

from shared import names
from shared.claim import Claim
from shared.ledger import Hunger, Ledger
from shared.queue import WorkerInfo, workers
from worker.loop import EngineLoop
from worker.shelf import Resident

_LOOK_SECONDS: Final = 0.25
"""Between two looks at the queues of absent models, while there is enough to do without."""
_HELP_SECONDS: Final = 2.0
"""Without a job of its own after which a worker takes on a model that another one has."""
_BRINGING_MS: Final = 3000
"""Longer than a worker's heartbeats are apart: from then on its own say that it has the model."""
REFUSED_SECONDS: Final = 60.0
"""For which a worker leaves a model that did not fit to those where it may."""


class Agenda:
    """On the thread that takes jobs."""

    def __init__(
        self, redis: Redis, ledger: Ledger, loop: EngineLoop, *, worker: str, patience: float
    ) -> None:
        """`patience` in seconds."""
        self._redis = redis
        self._ledger = ledger
        self._loop = loop
        self._worker = worker
        self._patience = patience
        self._look_at = 0.0
        self._fed_at = time.monotonic()
        self._emptied: str | None = None
        """The model whose queue held nothing behind the job that was taken last."""
        self._elsewhere: frozenset[str] = frozenset()
        """Models that other workers have."""

    def take(self) -> Claim | None:
        """The next job, if there is one that this worker should take now."""
        own, absent = self._models()
        if absent and (claim := self._bring(own, absent)):
            return claim
        if not absent and own == [self._emptied]:
            self._emptied = None  # `wait` hears of what has come since
            return None
        claim = self._ledger.take(own)
        # With nothing to do, every new job may be a reason to look.
        self._look_at = time.monotonic() + _LOOK_SECONDS if claim else 0.0
        return self._noted(claim)

    def wait(self, seconds: int) -> Claim | None:
        """Until there may be such a job, but no longer than this; the job, if it is known by then.

        None: `take` will tell.
        """
        own, absent = self._models()
        if absent or not own:
            mine = [*own, *(name for name in absent if name not in self._elsewhere)]
            self._ledger.wait(seconds, mine or self._ledger.models)
            return None
        return self._noted(self._ledger.wait_and_take(seconds, own))

    def _noted(self, claim: Claim | None) -> Claim | None:
        if claim:
            self._fed_at = time.monotonic()
            self._emptied = None if claim.behind else claim.model
        return claim

    def _models(self) -> tuple[list[str], list[str]]:
        """Those to take from, and those that could be brought in."""
        loop = self._loop
        loaded, coming, going = loop.loaded, loop.coming, loop.shelf.going
        served = self._ledger.models
        own = [name for name in served if name in loaded and name not in going]
        # One at a time: whoever is about to come may need the place that seems free.
        absent = [] if coming else [name for name in served if name not in loaded]
        return own, absent

    def _bring(self, own: Sequence[str], absent: Sequence[str]) -> Claim | None:
        """A job of a model that is worth its place; it is loaded because of this job."""
        if time.monotonic() < self._look_at:
            return None
        queues = self._ledger.hunger([*own, *absent])
        if any(queues[name].waiting for name in own):
            self._fed_at = time.monotonic()
        wanted = sorted(
            (name for name in absent if queues[name].waiting),
            key=lambda name: -queues[name].seconds,
        )
        if not wanted:
            return None
        others = [info for name, info in workers(self._redis).items() if name != self._worker]
        self._elsewhere = frozenset(
            name for info in others for name in (*info.loaded, *info.coming)
        )
        coming = {name for info in others for name in info.coming}  # however long loading takes
        for name in wanted:
            if name in coming or self._is_refused(name, others):
                continue
            if self._may_bring(name, queues):
                return self._ledger.take([name])
        return None

    def _is_refused(self, name: str, others: Collection[WorkerInfo]) -> bool:
        """It did not fit here of late, and may fit elsewhere; else its jobs are told so here."""
        refused_at = self._loop.shelf.refused.get(name)
        if refused_at is None or time.monotonic() - refused_at > REFUSED_SECONDS:
            return False
        return any(name in info.models and name not in info.refused for info in others)

    def _may_bring(self, name: str, queues: Mapping[str, Hunger]) -> bool:
        shelf, now = self._loop.shelf, time.monotonic()
        hungry = queues[name].seconds >= self._patience
        helps = now - self._fed_at >= _HELP_SECONDS
        if name in self._elsewhere and not (hungry or helps):
            return False
        expendable = None
        if not shelf.has_room(name):
            out = [each for each in shelf.residents if each.name not in shelf.pinned]
            idle = [each for each in out if not each.busy and not _waiting(queues, each)]
            settled = [each for each in out if now - each.since >= self._patience]
            victims = idle or (settled if hungry else [])
            # If nothing may go at all, those who wait for the model have to be told.
            if out and not victims:
                return False
            expendable = min(victims, key=self._is_only_here, default=None)
        shelf.expendable = expendable.name if expendable else None
        return self._is_first(name)

    def _is_first(self, name: str) -> bool:
        """No other worker has just decided to bring the model in."""
        lock = names.bringing(name)
        if self._redis.set(lock, self._worker, nx=True, px=_BRINGING_MS):
            return True
        return bool(self._redis.get(lock) == self._worker.encode())

    def _is_only_here(self, model: Resident) -> bool:
        return model.name not in self._elsewhere


def _waiting(queues: Mapping[str, Hunger], model: Resident) -> bool:
    return model.name in queues and queues[model.name].waiting > 0
