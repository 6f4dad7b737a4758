"""A run as Markdown tables."""

import math
from collections.abc import Sequence
from typing import Final

from tests.chaos.leg import LegResult
from tests.chaos.memory import longest_lives
from tests.chaos.pauses import longest_silences, recoveries
from tests.chaos.schedule import LASTING
from tests.chaos.verdict import Counts

_LONG_SECONDS: Final = 60.0
_WORDS: Final = {
    "lost": "tokens lost",
    "repeated": "tokens repeated",
    "out_of_order": "events out of order",
    "unfinished": "streams unfinished",
    "different": "texts unlike the undisturbed run",
    "torn_logs": "logs torn",
    "rows_missing": "rows missing",
    "rows_double": "rows double",
    "rows_wrong": "rows unlike what the client got",
    "dirty": "entries left in RQ's registries and MiniVault's sets",
    "not_recovered": "faults that were not recovered from",
    "memory": "processes that grew beyond their limit",
}


def report(results: Sequence[LegResult], provenance: str) -> str:
    """Everything that docs/reliability.md shows of a run."""
    return "\n\n".join([provenance, _counts(results), _recoveries(results), *_memory(results)])


def silences(results: Sequence[LegResult], count: int = 8) -> list[str]:
    """A line for each of the longest pauses, for whoever wants to know their reasons."""
    lines = []
    for result in results:
        for seconds, record, kinds in longest_silences(result.records, result.strikes, count):
            reasons = ", ".join(kinds) or "no fault"
            lines.append(f"{seconds:.1f} s without an event, {record.name}: {reasons}")
    return lines


def total(results: Sequence[LegResult]) -> Counts:
    counts = Counts()
    for result in results:
        counts.add(result.counts)
    return counts


def _counts(results: Sequence[LegResult]) -> str:
    head = ["", *(result.leg.title for result in results), "together"]
    columns = [*(result.counts for result in results), total(results)]
    lines = [
        _numbers("streams", [len(result.records) for result in results]),
        _numbers("faults", [len(result.strikes) for result in results]),
        _numbers("tokens", [_tokens(result) for result in results]),
        _numbers("connections made by clients", [_connections(result) for result in results]),
        _numbers("seconds", [round(result.seconds) for result in results]),
    ]
    for name, words in _WORDS.items():
        lines.append([words, *(f"**{counts.numbers()[name]}**" for counts in columns)])
    return table(head, lines)


def _recoveries(results: Sequence[LegResult]) -> str:
    strikes = [strike for result in results for strike in result.strikes]
    lines = [
        [
            str(kind),
            str(found.faults),
            _seconds(found.lasted) if kind in LASTING else "",
            str(found.measured),
            _seconds(found.p50),
            _seconds(found.p99),
            _seconds(found.longest),
        ]
        for kind, found in recoveries(strikes).items()
    ]
    head = [
        "fault",
        "times",
        "lasted p50, s",
        "streams measured",
        "pause p50, s",
        "p99, s",
        "longest, s",
    ]
    return table(head, lines)


def _memory(results: Sequence[LegResult]) -> list[str]:
    """Of processes that lived for long enough to grow."""
    lines = []
    for result in results:
        for role, life in sorted(longest_lives(result.lives).items()):
            if life.seconds < _LONG_SECONDS:
                continue
            figures = (life.seconds, life.first, life.last, life.highest)
            where = result.leg.phase.partition(",")[0]
            lines.append([f"{role}, {where}", *(f"{figure:.0f}" for figure in figures)])
    head = ["process that lived longest", "s", "MB at first", "at last", "most"]
    return [table(head, lines)] if lines else []


def _numbers(name: str, values: Sequence[int]) -> list[str]:
    return [name, *(str(value) for value in [*values, sum(values)])]


def _tokens(result: LegResult) -> int:
    return sum(record.usage.get("completion_tokens", 0) for record in result.records)


def _connections(result: LegResult) -> int:
    return sum(record.connections for record in result.records)


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
