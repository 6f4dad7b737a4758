"""How long clients waited because of a fault. Pure."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from bench.measure import quantile
from tests.chaos.record import Record
from tests.chaos.schedule import Kind
from tests.chaos.strike import Strike


class Recovery(NamedTuple):
    """Of one kind of fault; seconds. Nan where nobody was hit."""

    faults: int
    measured: int
    """Streams that were measured: those hit by a fault that struck alone."""
    p50: float
    p99: float
    longest: float
    lasted: float
    """The median length of the fault itself."""


def pause(record: Record, began: float, ended: float) -> float:
    """The longest silence of a stream that reaches into a time; 0 if it was over by then."""
    times = [arrival.at for arrival in record.arrivals]
    return max((b - a for a, b in pairwise(times) if b > began and a < ended), default=0.0)


def recoveries(strikes: Sequence[Strike]) -> dict[Kind, Recovery]:
    found = {}
    for kind in Kind:
        of_kind = [strike for strike in strikes if strike.fault.kind is kind]
        if of_kind:
            found[kind] = _recovery(of_kind)
    return found


def _recovery(strikes: Sequence[Strike]) -> Recovery:
    pauses = [
        pause(record, strike.began, strike.ended)
        for strike in strikes
        if strike.alone
        for record in strike.hit
    ]
    lengths = [strike.ended - strike.began for strike in strikes]
    return Recovery(len(strikes), len(pauses), *_spread(pauses), median(lengths))


def _spread(values: Iterable[float]) -> tuple[float, float, float]:
    known = [value for value in values if value > 0]
    if not known:
        return (math.nan, math.nan, math.nan)
    return (quantile(known, 0.5), quantile(known, 0.99), max(known))


def longest_silences(
    records: Iterable[Record], strikes: Sequence[Strike], count: int
) -> list[tuple[float, Record, list[Kind]]]:
    """The longest of all: seconds, stream, and the faults that struck or lasted meanwhile."""
    silences = sorted(
        (
            (b.at - a.at, a.at, b.at, record)
            for record in records
            for a, b in pairwise(record.arrivals)
        ),
        key=lambda silence: silence[0],
        reverse=True,
    )
    return [
        (
            seconds,
            record,
            [each.fault.kind for each in strikes if each.began < b and a < each.ended],
        )
        for seconds, a, b, record in silences[:count]
    ]
