"""How `make chaos` measures what a client waited."""

import math

from tests.chaos.pauses import longest_silences, pause, recoveries
from tests.chaos.prompts import Request
from tests.chaos.record import Arrival, Record
from tests.chaos.schedule import Fault, Kind
from tests.chaos.strike import Strike, mark_overlaps


def record(*times: float) -> Record:
    arrivals = [Arrival(seq, "token", "", at) for seq, at in enumerate(times, start=1)]
    return Record(Request(0, {}), arrivals=arrivals)


def strike(began: float, ended: float, well: float | None, *hit: Record) -> Strike:
    fault = Fault(0, Kind.WORKER_KILL, gap=0, overlaps=False, seconds=0, seed=0)
    return Strike(fault, began, ended, well, hit)


def test_the_pause_is_the_longest_silence_that_reaches_into_the_fault() -> None:
    seen = record(1.0, 1.5, 4.0, 4.5, 9.0)
    assert pause(seen, 2.0, 2.5) == 2.5
    assert pause(seen, 2.0, 5.0) == 4.5
    assert pause(seen, 4.1, 4.2) == 0.5
    assert pause(seen, 9.5, 10.0) == 0


def test_only_faults_that_struck_alone_are_measured() -> None:
    first = strike(1.0, 1.5, 3.0, record(0.9, 2.9))
    second = strike(5.0, 5.5, 6.0, record(4.9, 5.9))
    third = strike(5.8, 6.0, None, record(5.7, 99.0))
    strikes = [first, second, third]
    mark_overlaps(strikes)
    assert [each.alone for each in strikes] == [True, False, False]
    found = recoveries(strikes)[Kind.WORKER_KILL]
    assert (found.faults, found.measured, found.p50, found.longest) == (3, 1, 2.0, 2.0)


def test_nobody_was_hit() -> None:
    found = recoveries([strike(1.0, 1.5, 3.0)])[Kind.WORKER_KILL]
    assert found.measured == 0
    assert math.isnan(found.p50)


def test_the_longest_silences_name_what_struck_meanwhile() -> None:
    seen, other = record(1.0, 1.5, 4.0), record(2.0, 3.0)
    silences = longest_silences([seen, other], [strike(2.0, 2.5, 3.0)], count=2)
    assert silences == [(2.5, seen, [Kind.WORKER_KILL]), (1.0, other, [Kind.WORKER_KILL])]
