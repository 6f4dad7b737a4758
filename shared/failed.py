"""Failed jobs: they keep their reason, and can be put back."""

from __future__ import annotations

from redis import Redis
from rq.job import Job

from shared import events, job, names, scripts
from shared.errors import JobNotFoundError
from shared.events import Queued
from shared.ledger import front_turn
from shared.log import EventLog
from shared.queue import rq_queue


def put_back(redis: Redis, job_id: str) -> bool:
    """Queue a failed job again: it goes on behind its failure. False if it has not failed."""
    try:
        request, _ = EventLog(redis).read_job(job_id)
    except JobNotFoundError:
        return False
    queue = rq_queue(redis, request.model)
    event = Queued(seq=0, id=job_id, model=request.model, position=0)
    return bool(
        scripts.load(redis, "reopen")(
            keys=[
                names.events(job_id),
                names.JOBS,
                names.UNSAVED,
                names.order(request.model),
                names.in_flight(request.client),
                names.ended(job_id),
                queue.failed_job_registry.key,
                queue.key,
                Job.key_for(job_id),
                names.wake(request.model),
            ],
            args=[
                job_id,
                events.encode(event),
                names.channel(job_id),
                job.now(),
                front_turn(job.now()),
            ],
        )
    )
