"""The numbers of interactions: in which order their jobs were made.

One column orders pages of the history, bounds them in time, and is what the full-text index
knows rows by, so that a search finds the newest first without sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any, Final

import sqlalchemy as sa

from shared.interaction import Interaction

PLACES_A_MILLISECOND: Final = 128
"""Few: the full-text index is made of differences between numbers."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS: Final = sa.table("interactions", sa.column("number", sa.BigInteger))


def first_number(moment: datetime) -> int:
    """The least number that a job made at this moment, to the millisecond, can have."""
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    return max(0, milliseconds) * PLACES_A_MILLISECOND


def new_numbers(connection: sa.Connection, rows: Sequence[Interaction]) -> dict[str, int]:
    """A number for each job's row, in a transaction that is alone.

    Where a millisecond is full, they come out of the ones after it.
    """
    firsts = {row.id: first_number(_moment(row.created_at)) for row in rows}
    taken = _taken(connection, set(firsts.values()))
    numbers: dict[str, int] = {}
    for job_id in sorted(firsts):
        for number in count(firsts[job_id]):
            first = number - number % PLACES_A_MILLISECOND
            if first not in taken:
                taken |= _taken(connection, {first})
            if number not in taken[first]:
                taken[first].add(number)
                numbers[job_id] = number
                break
    return numbers


def _taken(connection: sa.Connection, firsts: set[int]) -> dict[int, set[int]]:
    """Of each millisecond, the numbers that are in use."""
    found: dict[int, set[int]] = {first: set() for first in firsts}
    if firsts:
        values = {f"first{i}": first for i, first in enumerate(firsts)}
        for number in connection.execute(_numbers_in(len(firsts)), values).scalars():
            found[number - number % PLACES_A_MILLISECOND].add(number)
    return found


@cache
def _numbers_in(milliseconds: int) -> sa.Select[Any]:
    """Those that are in use, in so many of them: `first0`, `first1` and so on."""
    column = _NUMBERS.c.number
    firsts = [sa.bindparam(f"first{i}", type_=sa.BigInteger) for i in range(milliseconds)]
    spans = [column.between(first, first + PLACES_A_MILLISECOND - 1) for first in firsts]
    return sa.select(column).where(sa.or_(*spans))


def _moment(created_at: str) -> datetime:
    moment = datetime.fromisoformat(created_at)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
