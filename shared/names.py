"""Every Redis key, channel and queue name. No other module builds one.

RQ keeps its own keys under `rq:`; these are MiniVault's.
"""

from __future__ import annotations

GENERATE_FUNCTION = "worker.intake.generate"
"""What RQ is told to run. The API names it as text, so that it never imports the worker."""


def queue(model: str) -> str:
    """RQ queue of the jobs for one model: only workers that serve the model listen there."""
    return f"generate-{model}"


def events(job_id: str) -> str:
    """Redis Stream that holds the event log of a job."""
    return f"minivault:job:{job_id}:events"


def channel(job_id: str) -> str:
    """Pub/sub channel on which a job's new events are announced."""
    return f"minivault:live:{job_id}"


def rate_limit(client: str) -> str:
    """Sorted set of one client's requests inside the rate limit's window."""
    return f"minivault:rate:{client}"


def worker_info(worker_name: str) -> str:
    """JSON that a worker renews with its heartbeat: loaded models, slots, KV memory."""
    return f"minivault:worker:{worker_name}"
