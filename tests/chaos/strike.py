"""A fault as it happened."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.record import Record
from tests.chaos.schedule import Fault


@dataclass
class Strike:
    """Times in monotonic seconds."""

    fault: Fault
    began: float
    ended: float = 0.0
    """When the disturbance itself was over, not what it led to."""
    well: float | None = None
    """When all processes were there again; None: they were not in time."""
    hit: Sequence[Record] = field(default_factory=list)
    """Streams that had tokens before and that it disturbed, or might have."""
    alone: bool = True
    """No other fault lasted at the same time."""


def mark_overlaps(strikes: Sequence[Strike]) -> None:
    """No fault was alone that was not over, with all its consequences, as the next one struck."""
    for earlier, later in pairwise(strikes):
        if earlier.well is None or later.began < earlier.well:
            earlier.alone = later.alone = False
