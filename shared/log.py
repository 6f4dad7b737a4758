"""The event log: one Redis Stream per job, appended to and announced in one step.

An append is accepted only from the job's owner, and only if its number is the next one and the
log has not ended. So a worker that was thought dead and comes back is fenced off. The same
append sent twice by one owner (its reply was lost) is accepted twice and stored once.

The first entry also holds the request. It is no part of the event and is never announced: the
log alone is the job, and RQ's books, which dashboards show, contain no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError  # noqa: A004 (redis-py's own, as its callers expect)

from shared import events, job, names, scripts
from shared.claim import Claim
from shared.errors import JobNotFoundError
from shared.events import AnyEvent
from shared.job import GenerationRequest
from shared.wire import Wire

_REQUEST: Final = "request"

_Entries: TypeAlias = list[tuple[bytes, dict[bytes, bytes]]]


class Append(NamedTuple):
    job_id: str
    owner: str
    """The claim under which the event is written (`shared.ledger`)."""
    event: AnyEvent


class EventLog:
    """The workers' side: appends, and reads whole jobs."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._wire = Wire(redis)
        # Sent whole (EVAL) rather than by hash: it is short, the server caches it, and one that was
        # restarted knows no hash.
        self._script = scripts.source("append")

    def append_all(self, appends: Sequence[Append]) -> list[bool]:
        """Append in order, all jobs in one script; False where fenced off."""
        if not appends:
            return []
        keys, arguments = [names.CLAIMS], list[str | bytes]()
        for job_id, owner, event in appends:
            keys.append(names.events(job_id))
            arguments += (
                job_id,
                owner,
                str(event.seq),
                events.encode(event),
                "1" if events.is_terminal(event) else "0",
                names.channel(job_id),
            )
        command = ("EVAL", self._script, len(keys), *keys, *arguments)
        try:
            verdicts = self._wire.call(command)
        except ConnectionError:  # perhaps only of a server that is no more: another connection
            verdicts = self._wire.call(command)
        return [verdict == 1 for verdict in verdicts]

    def read_job(self, job_id: str) -> tuple[GenerationRequest, list[AnyEvent]]:
        """The request and everything that has happened to it.

        Raises:
            JobNotFoundError: there is no such log.
            DecodeError: the log is of another version.
        """
        entries: _Entries = self._redis.xrange(names.events(job_id))  # type: ignore[assignment]
        return _job_of(job_id, entries)


def taken(claim: Claim) -> tuple[GenerationRequest, list[AnyEvent]]:
    """As `EventLog.read_job`, of what came with a claim."""
    entries = [
        (number, dict(zip(fields[::2], fields[1::2], strict=True)))
        for number, fields in claim.entries
    ]
    return _job_of(claim.job_id, entries)


async def read(
    redis: AsyncRedis, job_id: str, after: int = 0, *, count: int | None = None
) -> list[AnyEvent]:
    """Events with a number above `after`, in order; at most `count`."""
    entries = await redis.xrange(names.events(job_id), min=f"{after + 1}-0", count=count)
    return _decode_entries(entries)  # type: ignore[arg-type]


class Head(NamedTuple):
    """What is known of a job at a glance."""

    owner: str | None
    """Id of the API key that it belongs to, empty for none; None: there never was such a job."""
    last: AnyEvent | None
    """The latest event; None: they have expired."""


async def head(redis: AsyncRedis, job_id: str) -> Head:
    """In one round trip, which is the same one whether there is such a job or not."""
    pipe = redis.pipeline(transaction=False)
    pipe.xrange(names.events(job_id), count=1)
    pipe.xrevrange(names.events(job_id), count=1)
    pipe.get(names.ended(job_id))
    first, last, ended = await pipe.execute()
    if first and last:
        _, fields = first[0]
        request = fields.get(_REQUEST.encode())
        return Head(job.owner(request) if request else "", _decode_entries(last)[0])
    return Head(None if ended is None else ended.decode(), None)


async def read_request(redis: AsyncRedis, job_id: str) -> GenerationRequest | None:
    """The job that a log is of; None if there is no such log.

    Raises:
        DecodeError: the log is of another version.
    """
    entries: _Entries = await redis.xrange(names.events(job_id), count=1)  # type: ignore[assignment]
    return job.decode(entries[0][1].get(_REQUEST.encode(), b"")) if entries else None


async def last_numbers(redis: AsyncRedis, job_ids: Sequence[str]) -> list[int | None]:
    """Of the latest event of each job, in one round trip; None where there is no log."""
    pipe = redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.xrevrange(names.events(job_id), count=1)
    return [int(last[0][0].partition(b"-")[0]) if last else None for last in await pipe.execute()]


async def exists(redis: AsyncRedis, job_id: str) -> bool:
    return bool(await redis.exists(names.events(job_id)))


def _job_of(job_id: str, entries: _Entries) -> tuple[GenerationRequest, list[AnyEvent]]:
    if not entries:
        raise JobNotFoundError(f"Job {job_id} has no event log.")
    _, first = entries[0]
    return job.decode(first.get(_REQUEST.encode(), b"")), _decode_entries(entries)


def _decode_entries(entries: _Entries) -> list[AnyEvent]:
    return [events.decode(fields[b"event"]) for _, fields in entries]
