"""The workers, as whoever administers their models sees and commands them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Final

from redis.asyncio import Redis

from api.deadline import in_time
from api.errors import ModelInSettingsError, ModelPinnedError, NoWorkerError, refusal
from api.served import Served
from shared import fleet, names
from shared.errors import MiniVaultError, ModelUnavailableError, NoPlaceError, UnknownModelError
from shared.fleet import Answer, LoadOrder, Look, Order, StockEntry, UnloadOrder
from shared.queue import WorkerInfo, named_workers_async
from shared.settings import Settings

PATIENCE_SECONDS: Final = 25.0
"""For which a request waits until workers have done what it asks; then it is told so."""
_POLL: Final = 0.1
_ORDER_TTL: Final = 60
"""Seconds after which what a dead worker was told is forgotten."""


class Fleet:
    """Every method raises RedisUnavailableError where nobody knows."""

    def __init__(self, settings: Settings, redis: Redis, served: Served) -> None:
        self._settings = settings
        self._redis = redis
        self._served = served

    async def workers(self) -> dict[str, WorkerInfo]:
        """The live ones."""
        async with in_time():
            return await named_workers_async(self._redis)

    async def pinned(self) -> set[str]:
        async with in_time():
            found: set[bytes] = await self._redis.smembers(names.PINNED)  # type: ignore[assignment]
        return {name.decode() for name in found}

    async def stock(self, workers: Iterable[str]) -> dict[str, dict[str, StockEntry]]:
        """What these workers have of the catalog: by worker, then by model."""
        known = list(workers)
        async with in_time():
            raws = await self._redis.mget([names.stock(name) for name in known]) if known else []
        found = zip(known, raws, strict=True)
        return {
            name: {entry.name: entry for entry in fleet.decode(raw, list[StockEntry])}
            for name, raw in found
            if raw is not None
        }

    async def require(self, name: str) -> dict[str, WorkerInfo]:
        """The live workers whose catalog has the model.

        Raises:
            NoWorkerError: there is no live worker.
            UnknownModelError: no catalog has it.
        """
        workers = await self.workers()
        stock = await self.stock(workers)
        if not stock:
            raise NoWorkerError("No live worker can be asked.")
        having = {worker: workers[worker] for worker in stock if name in stock[worker]}
        if not having:
            raise UnknownModelError("The catalog has no model of that name.")
        return having

    async def load(self, name: str) -> bool:
        """Have one worker load a model, and serve it; False while that goes on.

        Raises:
            UnknownModelError: the catalog has no such model.
            ModelUnavailableError: no worker can load it; why the first one can't.
        """
        workers = await self.require(name)
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        problem: MiniVaultError | None = None
        for worker in sorted(workers, key=lambda each: _unfit(workers[each], name)):
            try:
                return await self._order(worker, LoadOrder(uuid.uuid4().hex, name), deadline)
            except ModelUnavailableError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    async def unload(self, name: str, *, withdraw: bool) -> bool:
        """Have all workers put a model out of memory once its jobs have ended; False until then.

        `withdraw`: clients may no longer name it. What waits is still done.

        Raises:
            ModelPinnedError: it is pinned.
            ModelInSettingsError: it is to be withdrawn, and the settings name it.
        """
        workers = await self.require(name)
        if name in await self.pinned():
            raise ModelPinnedError
        if withdraw:
            if name in self._settings.models:
                raise ModelInSettingsError
            async with in_time():
                await self._redis.smove(names.SERVED, names.WITHDRAWN, name)
            await self.look(workers)
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        orders = [
            self._order(worker, UnloadOrder(uuid.uuid4().hex, name), deadline, dead_is_done=True)
            for worker in workers
        ]
        return all(await asyncio.gather(*orders))

    async def pin(self, name: str) -> None:
        """Have every worker load a model and keep it.

        Raises:
            UnknownModelError: it is not served.
            NoPlaceError: it would leave none for the other models.
        """
        served = await self._served.names()
        if name not in served:
            raise UnknownModelError(f"There is no such model here. Known: {', '.join(served)}.")
        workers = await self.workers()
        pinned = await self.pinned() & set(served) | {name}
        places = min((info.places for info in workers.values()), default=None)
        if places is not None and len(pinned) + (set(served) > pinned) > places:
            raise NoPlaceError(
                f"With {', '.join(sorted(pinned))} pinned, {places} places in a worker's memory "
                "leave none for the other models. Unpin one, or set MINIVAULT_MAX_LOADED_MODELS."
            )
        async with in_time(), self._redis.pipeline() as pipe:
            pipe.sadd(names.PINNED, name)
            pipe.hdel(names.PIN_DEATHS, name)
            await pipe.execute()
        await self.look(workers)

    async def unpin(self, name: str) -> None:
        """Once or more often."""
        async with in_time():
            await self._redis.srem(names.PINNED, name)
        await self.look(await self.workers())

    async def look(self, workers: Iterable[str]) -> None:
        """Have workers see at once what has changed for all of them."""
        await self._tell(workers, Look())

    async def _order(
        self,
        worker: str,
        order: LoadOrder | UnloadOrder,
        deadline: float,
        *,
        dead_is_done: bool = False,
    ) -> bool:
        """Whether it was carried out before the deadline.

        Raises:
            ModelUnavailableError: it can't be; or the worker died, unless `dead_is_done`.
        """
        await self._tell([worker], order)
        while asyncio.get_running_loop().time() < deadline:
            async with in_time():
                raw = await self._redis.get(names.outcome(order.id))
                lives = await self._redis.exists(names.worker_info(worker))
            if raw is not None:
                answer = fleet.decode(raw, Answer)
                if answer.code:
                    raise refusal(answer.code, answer.message, ModelUnavailableError)
                return True
            if not lives:
                if dead_is_done:
                    return True
                raise ModelUnavailableError("The worker died while it loaded the model.")
            await asyncio.sleep(_POLL)
        return False

    async def _tell(self, workers: Iterable[str], order: Order) -> None:
        async with in_time(), self._redis.pipeline() as pipe:
            for worker in workers:
                pipe.rpush(names.orders(worker), fleet.encode(order))
                pipe.expire(names.orders(worker), _ORDER_TTL)
            await pipe.execute()


def _unfit(info: WorkerInfo, name: str) -> tuple[bool, bool, bool, int]:
    """The least is asked first to load a model: one that has it, or else one that has room."""
    return (
        name not in info.loaded,
        name in info.refused,
        len(info.loaded) + len(info.coming) >= info.places,
        len(info.loaded),
    )
