"""Each connection is an open file, of which a process may have so many."""

from __future__ import annotations

import resource
from typing import Final

from api.reception import RESERVE
from shared.logging import get_logger

_OTHERS: Final = 200
"""Connections to Redis, sockets that listen, logs, libraries."""

log = get_logger()


def room_for(connections: int) -> int:
    """Raise the process's limit as far as it is needed and allowed; returns what it has room for.

    A process that has run out of files can't even refuse.
    """
    wanted = connections + RESERVE + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    room = max(1, allowed - RESERVE - _OTHERS)
    if room < connections:
        log.warning("too few open files allowed", allowed=allowed, connections=room)
    return room
