"""A pull as those who wait for it see it. Workers fetch; who looks on may come and go."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.deadline import in_time
from api.errors import NoWorkerError, model_problem
from api.fleet import Fleet
from shared import fleet, names
from shared.errors import ModelUnavailableError, RedisUnavailableError
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
        if self._wish is None:
            return
        told: PullState | None = None
        silent_since: float | None = None
        while True:
            now = asyncio.get_running_loop().time()
            try:
                state, wished, lives = await self._look()
            except (RedisError, RedisUnavailableError) as error:
                silent_since = silent_since or now
                if now - silent_since > PATIENCE_SECONDS:
                    raise RedisUnavailableError from error
                await asyncio.sleep(_POLL)
                continue
            if state is not None and state.id == self._wish:
                if state.state == "failed":
                    raise model_problem(state.code, state.message)
                if state.state == "done":
                    return
            elif not wished:
                raise ModelUnavailableError("What became of the pull is no longer known.")
            else:
                state = PullState(self._wish, "running", stage="Waiting for a worker")
            silent_since = None if lives else silent_since or now
            if silent_since is not None and now - silent_since > PATIENCE_SECONDS:
                raise NoWorkerError("No live worker fetches the model.")
            if state != told:
                told = state
                yield state
            await asyncio.sleep(_POLL)

    async def _look(self) -> tuple[PullState | None, bool, bool]:
        """The last state of any pull of the model, whether it is wished, whether it goes on."""
        # The wish first: it goes when the end is written, and both at once.
        async with in_time(), self._redis.pipeline() as pipe:
            pipe.hexists(names.PULLS, self.model)
            pipe.get(names.pull(self.model))
            pipe.exists(names.pull_lease(self.model))
            wished, raw, lives = await pipe.execute()
        return (fleet.decode(raw, PullState) if raw else None), bool(wished), bool(lives)


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
