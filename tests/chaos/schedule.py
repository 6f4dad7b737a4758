"""Which fault comes when: drawn from a seed, before anything runs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What goes wrong. The value is how tables call it."""

    WORKER_KILL = "worker SIGKILL"
    WHOLE_WORKER_KILL = "worker SIGKILL, its parent too"
    PARENT_KILL = "worker's parent SIGKILL"
    WORKER_FREEZE = "worker SIGSTOP 15 s, SIGCONT"
    WORKER_TERM = "worker SIGTERM"
    API_KILL = "API SIGKILL"
    VALKEY_KILL = "Valkey SIGKILL, restarted by the supervisor"
    VALKEY_OUTAGE = "Valkey SIGKILL, back after up to 20 s"
    SUPERVISOR_KILL = "supervisor SIGKILL, new `up`"
    REDIS_CUT = "Redis connections cut"
    REDIS_STALL = "Redis connections stalled"
    CLIENT_DROP = "clients drop at a random byte"
    SLOW_READER = "clients stop reading"
    DATABASE_LOCK = "database locked"
    DISK_FULL = "workers can't write files"


class Phase(StrEnum):
    """How the stack under test is put together."""

    EMBEDDED = "embedded Valkey, on a Unix socket"
    EXTERNAL = "external Valkey, over TCP through a proxy"


FREEZE_SECONDS: Final = 15.0

_WEIGHTS: Final[dict[Phase, dict[Kind, int]]] = {
    # Here the supervisor looks after Valkey, and there is no place for a proxy.
    Phase.EMBEDDED: {
        Kind.WORKER_KILL: 3,
        Kind.WHOLE_WORKER_KILL: 3,
        Kind.PARENT_KILL: 1,
        Kind.WORKER_FREEZE: 2,
        Kind.WORKER_TERM: 2,
        Kind.API_KILL: 3,
        Kind.VALKEY_KILL: 3,
        Kind.SUPERVISOR_KILL: 2,
        Kind.CLIENT_DROP: 3,
        Kind.SLOW_READER: 1,
        Kind.DATABASE_LOCK: 2,
        Kind.DISK_FULL: 1,
    },
    # Here the harness looks after Valkey, and can keep it away for longer.
    Phase.EXTERNAL: {
        Kind.REDIS_CUT: 4,
        Kind.REDIS_STALL: 3,
        Kind.VALKEY_OUTAGE: 2,
        Kind.WORKER_KILL: 3,
        Kind.WORKER_FREEZE: 1,
        Kind.WORKER_TERM: 1,
        Kind.API_KILL: 1,
        Kind.SUPERVISOR_KILL: 1,
        Kind.CLIENT_DROP: 2,
    },
}
_SECONDS: Final[dict[Kind, tuple[float, float]]] = {
    Kind.WORKER_FREEZE: (FREEZE_SECONDS, FREEZE_SECONDS),
    Kind.VALKEY_OUTAGE: (0.5, 20),
    Kind.SUPERVISOR_KILL: (0, 3),
    Kind.REDIS_CUT: (0, 20),
    Kind.REDIS_STALL: (1, 20),
    Kind.SLOW_READER: (5, 40),
    Kind.DATABASE_LOCK: (5, 20),
    Kind.DISK_FULL: (5, 20),
}
"""How long it lasts, between these."""
LASTING: Final = frozenset(_SECONDS)
"""What lasts, and is no blow."""
_GAP_SECONDS: Final = (1.0, 5.0)
_OVERLAP_SHARE: Final = 0.25
_EMBEDDED_SHARE: Final = 0.6
_OUTAGES: Final = (
    (Phase.EXTERNAL, Kind.VALKEY_OUTAGE),
    (Phase.EXTERNAL, Kind.REDIS_CUT),
    (Phase.EMBEDDED, Kind.DATABASE_LOCK),
    (Phase.EMBEDDED, Kind.DISK_FULL),
)


@dataclass(frozen=True)
class Fault:
    number: int
    kind: Kind
    gap: float
    """Seconds since all was well again, or since the fault before has struck."""
    overlaps: bool
    """Strikes while the one before still lasts."""
    seconds: float
    """How long it lasts; 0 for a blow."""
    seed: int
    """For what is drawn as it strikes: who is hit, at which byte."""


@dataclass(frozen=True)
class Leg:
    """A part of the run, on a stack of its own."""

    phase: Phase
    streams: range
    faults: Sequence[Fault]

    @property
    def title(self) -> str:
        return str(self.faults[0].kind if len(self.faults) == 1 else self.phase)


def plan(*, streams: int, faults: int, seed: int) -> list[Leg]:
    """Both legs of a run.

    Every kind comes once before any comes a second time, so that a short run sees most.
    """
    draw = random.Random(f"schedule {seed}")
    cut = round(streams * _EMBEDDED_SHARE)
    share = round(faults * _EMBEDDED_SHARE)
    return [
        Leg(Phase.EMBEDDED, range(cut), _faults(Phase.EMBEDDED, 0, share, draw)),
        Leg(Phase.EXTERNAL, range(cut, streams), _faults(Phase.EXTERNAL, share, faults, draw)),
    ]


def outages(*, streams: int, seconds: float, seed: int) -> list[Leg]:
    """For each that can be long, a leg with nothing else in the middle of its streams."""
    draw = random.Random(f"outages {seed}")
    return [
        Leg(
            phase,
            range(number * streams, (number + 1) * streams),
            [Fault(number, kind, 1.0, False, seconds, draw.randrange(2**32))],
        )
        for number, (phase, kind) in enumerate(_OUTAGES)
    ]


def _faults(phase: Phase, start: int, stop: int, draw: random.Random) -> list[Fault]:
    weights = _WEIGHTS[phase]
    kinds = list(weights)
    draw.shuffle(kinds)
    more = draw.choices(list(weights), list(weights.values()), k=max(0, stop - start - len(kinds)))
    found = []
    for number, kind in zip(range(start, stop), [*kinds, *more], strict=False):
        low, high = _SECONDS.get(kind, (0.0, 0.0))
        overlaps = number > start and draw.random() < _OVERLAP_SHARE
        gap = draw.uniform(0.2, 2.0) if overlaps else draw.uniform(*_GAP_SECONDS)
        found.append(
            Fault(number, kind, gap, overlaps, draw.uniform(low, high), draw.randrange(2**32))
        )
    return found
