"""Says every two seconds that this worker lives, what it holds and what it runs."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from shared import names
from shared.ledger import Ledger
from shared.logging import get_logger
from shared.queue import WorkerInfo
from worker.agenda import REFUSED_SECONDS
from worker.attempts import Attempts
from worker.intake import HEARTBEAT_TTL, GenerationWorker
from worker.loop import EngineLoop
from worker.thread import SideThread

INTERVAL: Final = 2.0


class Heartbeat(SideThread):
    """A thread, because RQ's own heartbeat stops while a job runs."""

    def __init__(
        self,
        redis: Redis,
        *,
        worker: GenerationWorker,
        loop: EngineLoop,
        attempts: Attempts,
        ledger: Ledger,
        slots: int,
        places: int,
        on_crash: Callable[[], None],
    ) -> None:
        super().__init__("heartbeat", on_crash)
        self._redis = redis
        self._worker = worker
        self._loop = loop
        self._attempts = attempts
        self._ledger = ledger
        self._slots = slots
        self._places = places
        self._stopped = threading.Event()
        self._heard_at = 0.0

    @property
    def heard(self) -> bool:
        """Whether Redis knows that this worker lives."""
        return time.monotonic() - self._heard_at < HEARTBEAT_TTL

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        with suppress(RedisError):  # it expires by itself
            self._redis.delete(names.worker_info(self._worker.name))

    def run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self.beat()
            except RedisError as error:
                get_logger().warning("heartbeat missed", reason=str(error))

    def beat(self) -> None:
        self.tell()
        self._worker.renew()
        self._heard_at = time.monotonic()

    def tell(self) -> None:
        """What has changed, before the next beat is due. From any thread."""
        shelf, since = self._loop.shelf, time.monotonic() - REFUSED_SECONDS
        info = WorkerInfo(
            pid=os.getpid(),
            parent=os.getppid(),
            models=self._ledger.models,
            loaded=self._loop.loaded,
            coming=self._loop.coming,
            places=self._places,
            refused=tuple(name for name, at in list(shelf.refused.items()) if at > since),
            swaps=shelf.swaps,
            slots=self._slots,
            running=len(self._attempts),
            kv_bytes=self._loop.kv_bytes,
            host=socket.gethostname(),
        )
        self._redis.set(
            names.worker_info(self._worker.name), msgspec.json.encode(info), ex=HEARTBEAT_TTL
        )
