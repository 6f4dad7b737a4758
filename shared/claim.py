"""Whose a job is."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

SUSPECTED: Final = 2
"""Deaths in a row after which a job may be what its workers die of."""


Entries: TypeAlias = tuple[tuple[bytes, tuple[bytes, ...]], ...]
"""Of a job's log, as a script returns them: each with its id, and its fields side by side."""


class Claim(NamedTuple):
    job_id: str
    model: str
    owner: str
    """`<worker>/<number>`: of one attempt, so that a worker can lose a job and take it again."""
    strikes: int = 0
    """Workers that died with it since it last got any further."""
    entries: Entries = ()
    """What its log held when it was taken from its queue."""
    behind: int = 0
    """Jobs that the queue held then."""


def worker_of(owner: str) -> str:
    return owner.partition("/")[0]
