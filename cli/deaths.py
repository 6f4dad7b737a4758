"""Tells the workers of one that died, so that its jobs go on at once and not after its silence."""

from __future__ import annotations

import socket
import threading
from queue import SimpleQueue
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared.ledger import report_death
from shared.queue import workers
from shared.redis import connect
from shared.settings import Settings

_PAUSE: Final = 0.2


class DeathNotices(threading.Thread):
    """A thread of its own: Redis may be away, or slow, and the supervisor must be neither.

    What can't be told yet is told when Redis is back. A worker whom Redis does not know by then
    needs no notice: it was never ready, has said goodbye, or has been missed already.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="deaths", daemon=True)
        self._settings = settings
        self._pids: SimpleQueue[int | None] = SimpleQueue()
        self._closed = threading.Event()

    def tell(self, pid: int) -> None:
        """A worker on this machine is no more. Returns at once."""
        self._pids.put(pid)

    def close(self) -> None:
        """Tell no more. Returns at once."""
        self._closed.set()
        self._pids.put(None)

    def run(self) -> None:
        with connect(self._settings, "up") as redis:
            for pid in iter(self._pids.get, None):
                while not _told(redis, pid):
                    if self._closed.wait(_PAUSE):
                        return


def _told(redis: Redis, pid: int) -> bool:
    """False if it could not be told now."""
    host = socket.gethostname()
    try:
        for name, info in workers(redis).items():
            if info.host == host and pid in (info.pid, info.parent):
                report_death(redis, name)
    except RedisError:
        return False
    return True
