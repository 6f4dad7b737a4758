"""Who waits, who runs, and whose job it is: the workers' side of the queues.

A job that is not over is in one of these states, and a single script moves it on:

- **waiting**: in `order` and in RQ's list;
- **claimed**: its owner stands in `CLAIMS`, be it a worker that runs it or a sweep that ends it;
- **unsaved**: it has ended, but the store has not taken its row yet. It is claimed as well while
  a sweep tries again.

A claim is a fencing token (Kleppmann, "How to do distributed locking"): only its holder may
append to the job's log, and a new claim makes the old one worthless.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError, RedisError
from rq.job import Job

from shared import names, scripts
from shared.claim import SUSPECTED, Claim
from shared.ending import Ending, finishing
from shared.queue import queued_models, rq_queue_key, workers

_DEATH_TTL: Final = 60
_LOG: Final = names.events("*").split("*")
"""What stands around a job's id in the name of its log."""
GUILTY: Final = 3
"""Deaths in a row at which a job is given up."""
_FRONT: Final = -(2.0**52)
"""Turns from here on are in front of every turn that a submission gets."""


def front_turn(time: float) -> str:
    """A turn in front of all that submissions get; the earlier the time, the further in front."""
    return f"{_FRONT + time * 1000:.0f}"


class Hunger(NamedTuple):
    waiting: int
    """Jobs."""
    seconds: float
    """For which none of them was taken."""


def _nothing(_: Pipeline) -> None:
    pass


class Ledger:
    """`worker` is the name of the worker that claims."""

    def __init__(self, redis: Redis, worker: str, models: Iterable[str]) -> None:
        self._redis = redis
        self._worker = worker
        self.models = tuple(models)
        """Whose jobs `take` and `wait` are about, where nothing else is said."""
        self._served: dict[str, int] = {}
        """Models, by the number of the claim that took from them last."""
        self._numbers = itertools.count(1)
        self._take, self._seize, self._put_back = (
            scripts.load(redis, name) for name in ("take", "seize", "put_back")
        )
        # Whole rather than by hash: in a transaction it can't be sent again.
        self._finish = scripts.source("finish")
        self._hunger = scripts.load(redis, "hunger")

    def take(self, models: Sequence[str] | None = None) -> Claim | None:
        """The job whose turn it is, of one of these models after the other."""
        for model in self._in_turn(self.models if models is None else models):
            number = next(self._numbers)
            keys, arguments = self._taking(model, number)
            if taken := self._take(keys=keys, args=arguments):
                return self._taken(taken, model, number)
        return None

    def wait(self, seconds: int, models: Sequence[str] | None = None) -> None:
        """Until a job may have come for one of these models, but no longer than this."""
        models = self.models if models is None else models
        self._redis.blpop([names.wake(model) for model in models], timeout=seconds)

    def wait_and_take(self, seconds: int, models: Sequence[str]) -> Claim | None:
        """`wait`, and at once `take`, of the first of these models in turn.

        Both commands are sent together, and the server comes to the second as soon as the first
        has been answered: what a submission and its claim write waits for the disk once. None may
        also mean that the server has yet to be told the script: `take` does so.
        """
        model, number = self._in_turn(models)[0], next(self._numbers)
        keys, arguments = self._taking(model, number)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.blpop([names.wake(each) for each in models], timeout=seconds)
            pipe.evalsha(self._take.sha, len(keys), *keys, *arguments)
            _, taken = pipe.execute(raise_on_error=False)
        if isinstance(taken, NoScriptError):
            return None
        if isinstance(taken, RedisError):
            raise taken
        return self._taken(taken, model, number) if taken else None

    def _in_turn(self, models: Sequence[str]) -> list[str]:
        return sorted(models, key=lambda name: self._served.get(name, 0))

    def _taking(self, model: str, number: int) -> tuple[list[str], list[str]]:
        """The keys and arguments of the script that takes a job, as this claim."""
        keys = [
            names.JOBS,
            names.CLAIMS,
            names.order(model),
            names.clock(model),
            names.turns(model),
            names.DEADLINES,
            names.STRIKES,
            rq_queue_key(model),
        ]
        return keys, [f"{self._worker}/{number}", *_LOG]

    def _taken(self, answer: Any, model: str, number: int) -> Claim:
        job_id, strikes, entries, behind = answer
        self._served[model] = number
        owner = f"{self._worker}/{number}"
        return Claim(job_id.decode(), model, owner, strikes, entries, behind)

    def hunger(self, models: Sequence[str]) -> dict[str, Hunger]:
        """How these models' queues fare."""
        keys = [key for model in models for key in (names.order(model), names.clock(model))]
        found = self._hunger(keys=keys) if keys else []
        pairs = zip(found[::2], found[1::2], strict=True)
        return {
            model: Hunger(waiting, float(seconds))
            for model, (waiting, seconds) in zip(models, pairs, strict=True)
        }

    def seize(self, job_id: str, model: str, *, expected: str = "") -> Claim | None:
        """Claim one job; None if it no longer is where we saw it.

        `expected` is the owner it is taken from; the empty one if it has none.
        """
        claim = Claim(job_id, model, self._new_owner())
        seized = self._seize(
            keys=[
                names.JOBS,
                names.CLAIMS,
                names.order(model),
                names.DEADLINES,
                rq_queue_key(model),
                names.CANCELS,
            ],
            args=[job_id, expected, claim.owner],
        )
        return claim if seized else None

    def put_back(self, claim: Claim, created_at: float) -> bool:
        """To the front of its queue, older jobs first; False if it is ours no more."""
        return bool(
            self._put_back(
                keys=[
                    names.CLAIMS,
                    names.order(claim.model),
                    rq_queue_key(claim.model),
                    Job.key_for(claim.job_id),
                    names.wake(claim.model),
                ],
                args=[claim.job_id, claim.owner, front_turn(created_at)],
            )
        )

    def finish(
        self, endings: Sequence[Ending], *, along: Callable[[Pipeline], None] = _nothing
    ) -> list[bool]:
        """Let go of jobs that have ended; False for those that are ours no more.

        `along` adds to the transaction in which that happens.
        """
        keys, arguments = finishing(endings)
        with self._redis.pipeline() as pipe:
            along(pipe)
            pipe.eval(self._finish, len(keys), *keys, *arguments)
            return [verdict == 1 for verdict in pipe.execute()[-1]]

    def accuse(self, claim: Claim, tokens: int) -> None:
        """Note that a suspect is about to be computed: if its worker dies now, that was why."""
        noted = f"{claim.strikes}@{tokens}@{claim.owner}"
        self._redis.hset(names.STRIKES, claim.job_id, noted)

    def strike(self, job_id: str, owner: str, tokens: int) -> int:
        """Count the death of the worker that had a job as `owner`, with so many tokens in its log.

        Returns how often that has happened since it last got any further. Once it is suspected,
        only deaths count that it was accused of.
        """
        noted: bytes | None = self._redis.hget(names.STRIKES, job_id)  # type: ignore[assignment]
        deaths, before, accused = (noted or b"0@0@").decode().split("@")
        count = int(deaths)
        if tokens > int(before):
            count = 1
        elif count < SUSPECTED or accused == owner:
            count += 1
        self._redis.hset(names.STRIKES, job_id, f"{count}@{tokens}@")
        return count

    def owners(self) -> dict[str, str]:
        """The owner of every claimed job."""
        claims: dict[bytes, bytes] = self._redis.hgetall(names.CLAIMS)  # type: ignore[assignment]
        return {job_id.decode(): owner.decode() for job_id, owner in claims.items()}

    def to_cancel(self) -> set[str]:
        """Jobs that somebody wants cancelled."""
        return set(_ids(self._redis.smembers(names.CANCELS)))

    def give_up(self, job_id: str) -> None:
        """Have a job cancelled that nobody follows."""
        with self._redis.pipeline() as pipe:
            pipe.zrem(names.ATTENDED, job_id)
            pipe.sadd(names.CANCELS, job_id)
            pipe.execute()

    def time(self) -> float:
        """The clock that leases and deadlines are on: the server's, since hosts' clocks differ."""
        seconds, microseconds = self._redis.time()
        return float(seconds) + microseconds / 1e6

    def overdue(self, time: float) -> list[str]:
        """Jobs that have waited too long for a worker by now."""
        return _ids(self._redis.zrangebyscore(names.DEADLINES, "-inf", time))

    def unattended(self, time: float) -> list[str]:
        """Jobs that nobody follows any more by now."""
        return _ids(self._redis.zrangebyscore(names.ATTENDED, "-inf", time))

    def unsaved(self, count: int) -> list[str]:
        """Some of the ended jobs whose rows are not written."""
        return _ids(self._redis.srandmember(names.UNSAVED, count))

    def stray(self) -> list[str]:
        """Jobs in no state at all, as when the server lost what it had not yet written to disk."""
        orders = [names.order(model) for model in queued_models(self._redis)]
        unfinished = _ids(self._redis.zdiff([names.JOBS, names.UNSAVED, *orders]))
        owners = self.owners()
        return [job_id for job_id in unfinished if job_id not in owners]

    def forget(self, job_id: str) -> None:
        """Strike a job without a log off all lists: nobody can do anything for it."""
        with self._redis.pipeline() as pipe:
            for name in (names.JOBS, names.DEADLINES, names.ATTENDED):
                pipe.zrem(name, job_id)
            for name in (names.UNSAVED, names.CANCELS):
                pipe.srem(name, job_id)
            for name in (names.CLAIMS, names.STRIKES):
                pipe.hdel(name, job_id)
            pipe.execute()

    def _new_owner(self) -> str:
        return f"{self._worker}/{next(self._numbers)}"


def report_death(redis: Redis, worker: str) -> None:
    """Tell the sweeps that a worker is no more, so that they need not wait for its silence.

    It is written down, for whoever starts next, and the others are called, each of them: the
    one that hears a common call may be frozen, or the dead one.
    """
    others = set(workers(redis)) - {worker}
    with redis.pipeline() as pipe:
        pipe.delete(names.worker_info(worker))
        pipe.set(names.death(worker), 1, ex=_DEATH_TTL)
        for name in map(names.calls, others):
            pipe.rpush(name, "")
            pipe.expire(name, _DEATH_TTL)
        pipe.execute()


def _ids(found: Any) -> list[str]:
    """Of whatever redis-py types a reply as."""
    return [member.decode() for member in found]
