"""A pull as those who wait for it see it. Workers fetch; who looks on may come and go."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.deadline import in_time
from api.errors import NoWorkerError, refusal
from api.fleet import Fleet
from shared import fleet, names
from shared.errors import MiniVaultError, ModelUnavailableError, RedisUnavailableError
from shared.fleet import PullState, PullWish

_POLL: Final = 0.25
PATIENCE_SECONDS: Final = 60.0
"""Without any worker, or without Redis, after which a stream gives up; the wish stays."""


class Pull:
    """One pull of a model, which may be one that somebody else has asked for."""

    def __init__(self, redis: Redis, model: str, wish: str | None) -> None:
        """`wish` is its id; None: there is nothing to do."""
        self.model = model
        self._redis = redis
        self._wish = wish

    async def states(self) -> AsyncIterator[PullState]:
        """What changes, until it is done.

        Raises:
            MiniVaultError: it failed, or nobody knows any more.
        """
        told: PullState | None = None
        heard_at = _now()
        while self._wish is not None:
            problem: MiniVaultError = NoWorkerError("No live worker fetches the model.")
            state, goes_on = told, False
            try:
                state, goes_on = await self._look(self._wish)
            except (RedisError, RedisUnavailableError):
                problem = RedisUnavailableError()
            if goes_on:
                heard_at = _now()
            elif _now() - heard_at > PATIENCE_SECONDS:
                raise problem
            if state is not None and state.state != "running":
                if state.state == "failed":
                    raise refusal(state.code, state.message, ModelUnavailableError)
                return
            if state is not None and state != told:
                told = state
                yield state
            await asyncio.sleep(_POLL)

    async def _look(self, wish: str) -> tuple[PullState, bool]:
        """How far it has come, and whether a worker is at it.

        Raises:
            ModelUnavailableError: nobody knows any more.
        """
        async with in_time(), self._redis.pipeline() as pipe:
            pipe.hexists(names.PULLS, self.model)
            pipe.get(names.pull(self.model))
            pipe.exists(names.pull_lease(self.model))
            wished, raw, goes_on = await pipe.execute()
        state = fleet.decode(raw, PullState) if raw else None
        if state is not None and state.id == wish and (wished or state.state != "running"):
            return state, bool(goes_on)
        if not wished:
            raise ModelUnavailableError("What became of the pull is no longer known.")
        return PullState(wish, "running", stage="Waiting for a worker"), bool(goes_on)


async def begin(redis: Redis, workers: Fleet, model: str, *, force: bool) -> Pull:
    """Ask for a pull, or join the one under way.

    Raises:
        UnknownModelError: the catalog has no such model.
        NoWorkerError: nobody could fetch it.
        RedisUnavailableError: nobody knows.
    """
    having = await workers.require(model)
    stock = await workers.stock(having)
    if not force and any(entries[model].ready for entries in stock.values()):
        async with in_time():
            if not await redis.hexists(names.PULLS, model):
                return Pull(redis, model, None)
    wish = PullWish(uuid.uuid4().hex, force=force)
    async with in_time():
        for _ in range(3):
            if await redis.hsetnx(names.PULLS, model, fleet.encode(wish)):
                await workers.look(having)
                return Pull(redis, model, wish.id)
            found = await redis.hget(names.PULLS, model)
            if found is not None:
                return Pull(redis, model, fleet.decode(found, PullWish).id)
    raise RedisUnavailableError


def _now() -> float:
    return asyncio.get_running_loop().time()
