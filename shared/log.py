"""The event log: one Redis Stream per job, appended to and announced in one step.

An append is accepted only if its number is the next one and the log has not ended. So a
writer that was thought dead and comes back finds its number taken and is fenced off. The
same append sent twice by one writer (its reply was lost) is accepted twice and stored once.

The first entry also holds the request. It is no part of the event and is never announced: the
log alone is the job, and RQ's books, which dashboards show, contain no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.client import Pipeline

from shared import events, job, names
from shared.errors import JobNotFoundError
from shared.events import AnyEvent, Queued
from shared.job import GenerationRequest

# KEYS[1] stream; ARGV: seq, event, channel, writer, "1" if the event ends the log, and behind
# these any further fields of the entry.
# Sent whole (EVAL) rather than by hash: it is short, the server caches it, and no
# restarted server can answer NOSCRIPT in the middle of a pipeline.
_APPEND: Final = """
local tail = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = tail and tonumber(string.match(tail[1], '^%d+')) or 0
local seq = tonumber(ARGV[1])
if seq ~= last + 1 or (tail and tail[2][6] == '1') then
  local mine = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', ARGV[1] .. '-0')[1]
  return (mine and mine[2][2] == ARGV[2] and mine[2][4] == ARGV[4]) and 1 or 0
end
redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'event', ARGV[2], 'writer', ARGV[4],
  'end', ARGV[5], unpack(ARGV, 6))
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
"""

_REQUEST: Final = "request"

_Entries: TypeAlias = list[tuple[bytes, dict[bytes, bytes]]]
Append: TypeAlias = tuple[str, AnyEvent]
"""(job id, event)"""


class EventLog:
    """The writing side. `writer` names one attempt at a job, or the API."""

    def __init__(self, redis: Redis, writer: str) -> None:
        self._redis = redis
        self._writer = writer

    def queue_begin(self, pipe: Pipeline, request: GenerationRequest, event: Queued) -> None:
        """Add the first append of a job to a pipeline."""
        self._queue_append(pipe, request.id, event, _REQUEST, job.encode(request))

    def _queue_append(
        self, pipe: Pipeline, job_id: str, event: AnyEvent, *fields: str | bytes
    ) -> None:
        """Add an append to a pipeline; its reply there is 1 if accepted, 0 if fenced off."""
        ended = "1" if events.is_terminal(event) else "0"
        pipe.eval(
            _APPEND,
            1,
            names.events(job_id),
            str(event.seq),
            events.encode(event),
            names.channel(job_id),
            self._writer,
            ended,
            *fields,
        )

    def append_all(self, appends: Sequence[Append]) -> list[bool]:
        """Append in order, one round trip for all jobs; False where fenced off."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id, event in appends:
            self._queue_append(pipe, job_id, event)
        return [reply == 1 for reply in pipe.execute()]

    def append(self, job_id: str, event: AnyEvent) -> bool:
        return self.append_all([(job_id, event)])[0]

    def read(self, job_id: str, after: int = 0) -> list[AnyEvent]:
        """Events with a number above `after`, in order."""
        entries = self._redis.xrange(names.events(job_id), min=_first_id(after))
        return _decode_entries(entries)  # type: ignore[arg-type]

    def read_job(self, job_id: str) -> tuple[GenerationRequest, list[AnyEvent]]:
        """The request and everything that has happened to it.

        Raises:
            JobNotFoundError: there is no such log.
            DecodeError: the log is of another version.
        """
        entries: _Entries = self._redis.xrange(names.events(job_id))  # type: ignore[assignment]
        if not entries:
            raise JobNotFoundError(f"Job {job_id} has no event log.")
        _, first = entries[0]
        return job.decode(first.get(_REQUEST.encode(), b"")), _decode_entries(entries)

    def expire(self, job_id: str, seconds: int) -> None:
        """Let a log go, once its job has ended and its row is written."""
        self._redis.expire(names.events(job_id), seconds)


async def read(redis: AsyncRedis, job_id: str, after: int = 0) -> list[AnyEvent]:
    """Events with a number above `after`, in order; the API's side of `EventLog.read`."""
    entries = await redis.xrange(names.events(job_id), min=_first_id(after))
    return _decode_entries(entries)  # type: ignore[arg-type]


async def exists(redis: AsyncRedis, job_id: str) -> bool:
    return bool(await redis.exists(names.events(job_id)))


def _first_id(after: int) -> str:
    return f"{after + 1}-0"


def _decode_entries(entries: _Entries) -> list[AnyEvent]:
    return [events.decode(fields[b"event"]) for _, fields in entries]
