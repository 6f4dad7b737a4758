"""Every Redis key, channel and queue name. No other module builds one.

RQ keeps its own keys under `rq:`; these are MiniVault's.
"""

from __future__ import annotations

from typing import Final

GENERATE_FUNCTION: Final = "worker.intake.generate"
"""What RQ is told to run. The API names it as text, so that it never imports the worker."""

JOBS: Final = "minivault:jobs"
"""Sorted set of every job that is not over yet, by the time of its submission."""
CLAIMS: Final = "minivault:claims"
"""Hash of jobs that were taken: `<worker>/<number of the claim>`. Who is named here, and
nobody else, may append to the job's log."""
DEADLINES: Final = "minivault:deadlines"
"""Sorted set of waiting jobs, by the time at which they have waited too long."""
ATTENDED: Final = "minivault:attended"
"""Sorted set of jobs that live as long as somebody follows them, by the time until which
somebody is taken to."""
CANCELS: Final = "minivault:cancels"
"""Set of jobs that are to be cancelled."""
STRIKES: Final = "minivault:strikes"
"""Hash of jobs whose worker died: `<deaths>@<tokens at the last>@<claim it is suspected under>`."""
UNSAVED: Final = "minivault:unsaved"
"""Set of ended jobs whose row the store has refused so far."""
SWEEP: Final = "minivault:sweep"
"""Held by the worker that sweeps for all, while it does."""
PACE: Final = "minivault:pace"
"""Hash of models: seconds that a job spends in a slot, as a moving average."""
WEBHOOKS: Final = "minivault:webhooks"
"""Sorted set of ended jobs whose webhook is to be delivered, by the time at which it is due."""
WEBHOOK_TRIES: Final = "minivault:webhook-tries"
"""Hash of these jobs: how often it was tried."""
CALLS: Final = "minivault:calls"
"""List of what some worker's sweep should look at right away."""


def queue(model: str) -> str:
    """RQ queue of the jobs for one model: only workers that serve the model listen there."""
    return f"generate-{model}"


def order(model: str) -> str:
    """Sorted set of the jobs in a model's queue, by whose turn it is."""
    return f"minivault:order:{model}"


def turns(model: str) -> str:
    """Sorted set of clients, by the turn of their last job in the queue."""
    return f"minivault:turns:{model}"


def clock(model: str) -> str:
    """Hash of priority classes: the turn that was taken last."""
    return f"minivault:clock:{model}"


def wake(model: str) -> str:
    """List on which idle workers wait for jobs."""
    return f"minivault:wake:{model}"


def events(job_id: str) -> str:
    """Redis Stream that holds the event log of a job."""
    return f"minivault:job:{job_id}:events"


def ended(job_id: str) -> str:
    """Left behind by a job, so that an expired one is not taken for one that never was."""
    return f"minivault:job:{job_id}:ended"


def channel(job_id: str) -> str:
    """Pub/sub channel on which a job's new events are announced."""
    return f"minivault:live:{job_id}"


def in_flight(client: str) -> str:
    """Set of a client's jobs that have not ended."""
    return f"minivault:in-flight:{client}"


def idempotency(client: str, key: str) -> str:
    """Hash: the job that a client's Idempotency-Key stands for."""
    return f"minivault:idempotency:{client}:{key}"


def rate_limit(client: str) -> str:
    """Sorted set of one client's requests inside the rate limit's window."""
    return f"minivault:rate:{client}"


def worker_info(worker_name: str) -> str:
    """JSON that a worker renews with its heartbeat. While it is there, the worker lives."""
    return f"minivault:worker:{worker_name}"


def death(worker_name: str) -> str:
    """There for a minute after somebody has seen the worker die."""
    return f"minivault:death:{worker_name}"


def calls(worker_name: str) -> str:
    """As `CALLS`, for one worker alone."""
    return f"{CALLS}:{worker_name}"
