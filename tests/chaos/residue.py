"""What may be left in Redis when nothing runs; everything else was left behind."""

import re
from collections.abc import Iterator
from typing import Any, Final

from redis import Redis
from rq.job import Job, JobStatus

from shared import names
from shared.queue import rq_queue, workers
from tests.support.models import REAL

_JOB: Final = r"job-[0-9a-f]{32}"
_EXPIRES: Final = re.compile(
    rf"minivault:job:{_JOB}:(events|ended)|minivault:(idempotency:.*|sweep|retention|stock:.*)"
    rf"|rq:(job|results):{_JOB}|rq:clean_groups|rq:clean_registries:.*|rq:worker:[^:]+"
)
"""Fine as long as it goes away by itself."""
_STAYS: Final = re.compile(
    r"minivault:(pace|clock:.*|turns:.*|wake:.*)|rq:(queues|workers|workers:.*|finished:.*)"
)
_WORKER: Final = re.compile(r"(?:rq|minivault):worker:(.+)")
"""Fine as long as the worker lives."""


def residue(redis: Redis) -> list[str]:
    """Keys that nobody has tidied away."""
    alive = set(workers(redis))
    found = []
    for key in _decoded(redis.scan_iter(count=1000)):
        worker = _WORKER.fullmatch(key)
        if worker and worker[1] in alive:
            tidy = True
        elif _EXPIRES.fullmatch(key):
            tidy = redis.ttl(key) != -1
        else:
            tidy = bool(_STAYS.fullmatch(key))
        if not tidy:
            found.append(key)
    for key in ("rq:workers", f"rq:workers:{names.queue(REAL)}"):
        members = {name.removeprefix("rq:worker:") for name in _decoded(redis.smembers(key))}
        found += [f"{key} has {name}, who is dead" for name in sorted(members - alive)]
    return found


def unfinished_in_rq(redis: Redis, job_ids: list[str]) -> list[str]:
    """Jobs that have ended but that RQ's books do not show as finished."""
    queue = rq_queue(redis, REAL)
    finished = set(_decoded(redis.zrange(queue.finished_job_registry.key, 0, -1)))
    found = []
    for job_id, job in zip(
        job_ids,
        Job.fetch_many(job_ids, connection=redis, serializer=queue.serializer),
        strict=True,
    ):
        status = job.get_status(refresh=False) if job is not None else "unknown to RQ"
        if status != JobStatus.FINISHED or job_id not in finished:
            registry = "in" if job_id in finished else "not in"
            found.append(f"{job_id}: {status} in RQ's books, {registry} its registry")
    return found


def _decoded(replies: Any) -> Iterator[str]:
    """Of whatever redis-py types a reply as."""
    return (reply.decode() for reply in replies)
