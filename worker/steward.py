"""Keeps a worker's models as admins want them: served, pinned, loaded, unloaded, fetched."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from shared import fleet, names
from shared.errors import DecodeError, MiniVaultError
from shared.fleet import Answer, LoadOrder, Look, Order, UnloadOrder
from shared.ledger import Ledger
from shared.logging import get_logger
from worker.loop import EngineLoop
from worker.pulls import Pulls
from worker.stock import Stock
from worker.thread import SideThread

INTERVAL: Final = 1.0
"""Seconds between two looks at what is wanted, unless an order comes."""
_ANSWERING: Final = 0.1
"""The same, while somebody waits for an answer."""
_ANSWER_TTL: Final = 300
STOCK_SECONDS: Final = 2.0
STOCK_TTL: Final = 60
_PIN_PAUSE: Final = 60.0
"""Before a pinned model that could not be loaded is tried again."""
_MAX_DEATHS: Final = 3


class Steward(SideThread):
    """What lasts it reads from Redis again and again; what is to be done once comes as an order."""

    def __init__(
        self,
        redis: Redis,
        *,
        worker: str,
        models: Sequence[str],
        ledger: Ledger,
        loop: EngineLoop,
        stock: Stock,
        on_served: Callable[[Sequence[str]], None],
        tell: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        """`models` are those of the settings. `on_served` is told all of them, when they change.

        `tell` has everybody know what is in memory now.
        """
        super().__init__("steward", on_crash)
        self._redis = redis
        self._worker = worker
        self._settled = tuple(models)
        self._ledger = ledger
        self._loop = loop
        self._stock = stock
        self._pulls = Pulls(redis, stock, worker, self._tell_stock)
        self._on_served = on_served
        self._tell = tell
        self._stopped = threading.Event()
        self._outcomes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """What is to be written down, put there by the engine's thread."""
        self._open_orders = 0
        self._pins_tried: dict[str, float] = {}
        self._stock_told_at = 0.0

    def stop(self) -> None:
        self._stopped.set()
        with suppress(RedisError):
            self._give(Look())  # else it listens to the end
        self.join()
        with suppress(RedisError):
            self._redis.delete(names.orders(self._worker), names.stock(self._worker))

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._write_down()
                self.look()
                self._listen()
            except RedisError as error:
                get_logger().warning("models not looked after without Redis", reason=str(error))
                self._stopped.wait(INTERVAL)

    def look(self) -> None:
        """Do what lasts."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in (names.SERVED, names.WITHDRAWN, names.PINNED):
                pipe.smembers(key)
            served, withdrawn, pinned = [
                sorted(each.decode() for each in found) for found in pipe.execute()
            ]
        fading = [name for name in withdrawn if self._redis.zcard(names.order(name))]
        models = tuple(dict.fromkeys([*self._settled, *served, *fading]))
        if models != self._ledger.models:
            self._ledger.models = models
            self._on_served(models)
        self._loop.shelf.pinned = frozenset(pinned)
        for name in pinned:
            if name in models:
                self._keep(name)
        # Also while no slot is free, and so nobody else looks: their time counts from now.
        self._ledger.hunger([name for name in models if name not in self._loop.loaded])
        self._pulls.look()
        if time.monotonic() - self._stock_told_at > STOCK_SECONDS:
            self._tell_stock()

    def _keep(self, name: str) -> None:
        """Load a pinned model if need be, and if no worker has died of it again and again."""
        now = time.monotonic()
        if name in self._loop.loaded or name in self._loop.coming:
            return
        if now - self._pins_tried.get(name, -_PIN_PAUSE) < _PIN_PAUSE:
            return
        deaths: Any = self._redis.hincrby(names.PIN_DEATHS, name, 1)
        if deaths > _MAX_DEATHS:
            self._redis.hincrby(names.PIN_DEATHS, name, -1)
            get_logger().error("workers died of a pinned model; not loaded", model=name)
            return
        self._pins_tried[name] = now

        def told(error: MiniVaultError | None) -> None:
            if error is not None:
                get_logger().error("pinned model not loaded", model=name, reason=error.detail)
            self._outcomes.put(lambda: self._survived(name))

        self._loop.load(name, told)

    def _survived(self, name: str) -> None:
        self._redis.hdel(names.PIN_DEATHS, name)

    def _listen(self) -> None:
        timeout = _ANSWERING if self._open_orders or not self._outcomes.empty() else INTERVAL
        found: Any = self._redis.blpop([names.orders(self._worker)], timeout=timeout)
        if found is None:
            return
        try:
            self._obey(fleet.decode(found[1], Order))  # type: ignore[arg-type]  # a union
        except DecodeError as error:
            get_logger().warning("order not understood", reason=error.detail)

    def _obey(self, order: Order) -> None:
        if isinstance(order, Look):
            return

        def told(error: MiniVaultError | None) -> None:
            answer = Answer(self._worker, *((error.code, error.detail) if error else ()))
            self._outcomes.put(lambda: self._answer(order, answer))

        self._open_orders += 1
        get_logger().info("order", what=type(order).__name__, model=order.model)
        try:
            self._stock.catalog()[order.model]
        except MiniVaultError as error:
            told(error)
            return
        (self._loop.load if isinstance(order, LoadOrder) else self._loop.unload)(order.model, told)

    def _answer(self, order: LoadOrder | UnloadOrder, answer: Answer) -> None:
        self._tell()  # who is answered may look
        with self._redis.pipeline() as pipe:
            # Here, so that it is served even if whoever asked has gone.
            if (
                isinstance(order, LoadOrder)
                and not answer.code
                and order.model not in self._settled
            ):
                pipe.sadd(names.SERVED, order.model)
                pipe.srem(names.WITHDRAWN, order.model)
            pipe.set(names.outcome(order.id), fleet.encode(answer), ex=_ANSWER_TTL)
            pipe.execute()
        self._open_orders -= 1

    def _write_down(self) -> None:
        while not self._outcomes.empty():
            write = self._outcomes.get()
            try:
                write()
            except RedisError:
                self._outcomes.put(write)
                raise

    def _tell_stock(self) -> None:
        self._stock_told_at = time.monotonic()
        self._redis.set(
            names.stock(self._worker), fleet.encode(self._stock.entries()), ex=STOCK_TTL
        )

    def _give(self, order: Order) -> None:
        self._redis.rpush(names.orders(self._worker), fleet.encode(order))
