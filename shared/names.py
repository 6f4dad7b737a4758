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
RETENTION: Final = "minivault:retention"
"""Held by the worker that deletes old interactions for all."""
PACE: Final = "minivault:pace"
"""Hash of models: seconds that a job spends in a slot, as a moving average."""
WEBHOOKS: Final = "minivault:webhooks"
"""Sorted set of ended jobs whose webhook is to be delivered, by the time at which it is due."""
WEBHOOK_TRIES: Final = "minivault:webhook-tries"
"""Hash of these jobs: how often it was tried."""
CALLS: Final = "minivault:calls"
"""List of what some worker's sweep should look at right away."""
SERVED: Final = "minivault:served"
"""Set of models that clients may name besides those of the settings."""
WITHDRAWN: Final = "minivault:withdrawn"
"""Set of models that were in `SERVED`: their last jobs are still done."""
PINNED: Final = "minivault:pinned"
"""Set of models that every worker keeps in memory."""
PIN_DEATHS: Final = "minivault:pin-deaths"
"""Hash of pinned models: workers in a row that died while they loaded it."""
PULLS: Final = "minivault:pulls"
"""Hash of models that some worker is to fetch: which pull that is, as JSON."""


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


def questions(model: str) -> str:
    """List of questions to a model's tokenizer, by id, for whichever worker comes first."""
    return f"minivault:questions:{model}"


def question(question_id: str) -> str:
    """The question itself, for as long as somebody waits for its answer."""
    return f"minivault:question:{question_id}"


def answer(question_id: str) -> str:
    """List that holds the answer, for whoever has asked."""
    return f"minivault:answer:{question_id}"


def events(job_id: str) -> str:
    """Redis Stream that holds the event log of a job."""
    return f"minivault:job:{job_id}:events"


def ended(job_id: str) -> str:
    """The API key of a job: left behind, so that it is not taken for one that never was."""
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


def failed_logins(client: str) -> str:
    """What `rate_limit` is, for an address's requests without a valid key."""
    return f"minivault:failed-logins:{client}"


def of_key(key_id: str) -> str:
    """The client that all who have an API key are together."""
    return f"key:{key_id}"


def tokens(key_id: str, day: str) -> str:
    """Hash of an API key's day: `total` tokens used and set aside, and what each job has aside."""
    return f"minivault:tokens:{key_id}:{day}"


def worker_info(worker_name: str) -> str:
    """JSON that a worker renews with its heartbeat. While it is there, the worker lives."""
    return f"minivault:worker:{worker_name}"


def death(worker_name: str) -> str:
    """There for a minute after somebody has seen the worker die."""
    return f"minivault:death:{worker_name}"


def calls(worker_name: str) -> str:
    """As `CALLS`, for one worker alone."""
    return f"{CALLS}:{worker_name}"


def orders(worker_name: str) -> str:
    """List of what one worker is to do with models."""
    return f"minivault:orders:{worker_name}"


def outcome(order_id: str) -> str:
    """JSON: what became of an order. There for some minutes."""
    return f"minivault:outcome:{order_id}"


def stock(worker_name: str) -> str:
    """JSON: the catalog as one worker has it, and what of it is on its machine."""
    return f"minivault:stock:{worker_name}"


def bringing(model: str) -> str:
    """Held for a moment by the worker that takes a model into its memory."""
    return f"minivault:bringing:{model}"


def pull(model: str) -> str:
    """JSON: how far the last pull of a model has come, or how it ended."""
    return f"minivault:pull:{model}"


def pull_lease(model: str) -> str:
    """Held by the worker that pulls a model, while it lives."""
    return f"minivault:pull-lease:{model}"
