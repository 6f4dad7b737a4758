"""Fetches models that admins asked for, one at a time, wherever a worker is alive.

The wish stays in Redis until it has come true or can't. A worker that begins holds a lease on it;
when it dies the lease runs out, and the next worker begins anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared import fleet, names
from shared.errors import MiniVaultError, ModelUnavailableError, WorkerLostError
from shared.fleet import PullState, PullWish
from shared.logging import get_logger
from worker.stock import Stock

LEASE_SECONDS: Final = 10
KEPT_SECONDS: Final = 300
"""For which the outcome can be read."""
_TELL_SECONDS: Final = 0.25
_MAX_ATTEMPTS: Final = 3


class Pulls:
    """On the steward's thread, but for the fetching itself, which has one of its own."""

    def __init__(
        self, redis: Redis, stock: Stock, worker: str, tell_stock: Callable[[], None]
    ) -> None:
        """`tell_stock` is called when there is a model more, before that is told."""
        self._redis = redis
        self._tell_stock = tell_stock
        self._stock = stock
        self._worker = worker
        self._under_way: str | None = None
        """A model."""

    def look(self) -> None:
        """Keep what is held, and begin what nobody does."""
        if self._under_way is not None:
            self._redis.set(names.pull_lease(self._under_way), self._worker, ex=LEASE_SECONDS)
            return
        wishes: dict[bytes, bytes] = self._redis.hgetall(names.PULLS)  # type: ignore[assignment]
        for model, raw in wishes.items():
            if self._begin(model.decode(), fleet.decode(raw, PullWish)):
                return

    def _begin(self, model: str, wish: PullWish) -> bool:
        lease = names.pull_lease(model)
        if not self._redis.set(lease, self._worker, nx=True, ex=LEASE_SECONDS):
            return False
        if not self._redis.hexists(names.PULLS, model):  # it has just ended
            self._redis.delete(lease)
            return False
        if wish.attempts >= _MAX_ATTEMPTS:
            lost = WorkerLostError(f"{wish.attempts} workers died while they fetched {model}.")
            self._end(model, wish, lost)
            return False
        begun = PullWish(wish.id, force=wish.force, attempts=wish.attempts + 1)
        self._redis.hset(names.PULLS, model, fleet.encode(begun))
        get_logger().info("pull begun", model=model, attempt=begun.attempts)
        self._under_way = model
        threading.Thread(target=self._pull, args=(model, begun), name="pull", daemon=True).start()
        return True

    def _pull(self, model: str, wish: PullWish) -> None:
        """On its own thread."""
        error: MiniVaultError | None = None
        try:
            self._stock.pull(model, _Teller(self._redis, model, wish), force=wish.force)
        except MiniVaultError as refusal:
            error = refusal
        except Exception as failure:  # noqa: BLE001  (whoever waits has to hear of it)
            get_logger().exception("pull failed", model=model)
            error = ModelUnavailableError(f"{model} can't be fetched: {failure}")
        get_logger().info("pull ended", model=model, problem=error.code if error else "")
        while True:
            try:
                self._tell_stock()
                self._end(model, wish, error)
                break
            except RedisError:
                time.sleep(1)
        self._under_way = None

    def _end(self, model: str, wish: PullWish, error: MiniVaultError | None) -> None:
        state = PullState(wish.id, "done")
        if error is not None:
            state = PullState(wish.id, "failed", code=error.code, message=error.detail)
        with self._redis.pipeline() as pipe:
            pipe.set(names.pull(model), fleet.encode(state), ex=KEPT_SECONDS)
            pipe.hdel(names.PULLS, model)
            pipe.delete(names.pull_lease(model))
            pipe.execute()


class _Teller:
    """Writes down how far a pull has come, not too often."""

    def __init__(self, redis: Redis, model: str, wish: PullWish) -> None:
        self._redis = redis
        self._model = model
        self._wish = wish
        self._stage = ""
        self._told_at = 0.0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._told_at < _TELL_SECONDS:
            return
        self._stage, self._told_at = stage, now
        state = PullState(self._wish.id, "running", stage=stage, done=done, total=total)
        try:
            self._redis.set(names.pull(self._model), fleet.encode(state), ex=KEPT_SECONDS)
        except RedisError as error:  # the next one may get through
            get_logger().warning("progress not told", model=self._model, reason=str(error))
