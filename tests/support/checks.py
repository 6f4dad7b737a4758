"""What holds of jobs that are over, whatever happened to them."""

from collections.abc import Iterable
from typing import Final

from redis import Redis
from rq.worker import BaseWorker

from shared import events, names
from shared.events import AnyEvent, Cancelled, Done, Failed
from shared.job import GenerationRequest
from shared.queue import rq_queue
from shared.settings import Settings
from shared.store import Interaction, Store
from tests.support.jobs import ended, log_of, text, undisturbed
from tests.support.poll import until

_STATUS: Final = {Done: "done", Failed: "failed", Cancelled: "cancelled"}
_KEPT: Final = (b"minivault:clock:", b"minivault:turns:", b"minivault:wake:", b"minivault:pace")
"""Keys that stay for good or until the next job: one each for a model."""


def assert_whole(log: list[AnyEvent], request: GenerationRequest) -> None:
    """Every event once, one end at the end, and the text of an undisturbed run."""
    assert_contiguous(log)
    assert isinstance(log[-1], Done), log[-1]
    assert text(log) == undisturbed(request)


def assert_contiguous(log: list[AnyEvent]) -> None:
    """Numbers without gaps, and one end at the end."""
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert [events.is_terminal(event) for event in log] == [False] * (len(log) - 1) + [True]


def wait_until_over(
    redis: Redis, requests: Iterable[GenerationRequest], seconds: float = 20
) -> None:
    """Until the jobs have ended and all is written."""
    for request in requests:
        ended(redis, request.id, seconds)
    until(lambda: redis.zcard(names.JOBS) == 0, seconds=seconds, what="the end of all jobs")


def assert_all_whole(
    settings: Settings, redis: Redis, *requests: GenerationRequest, seconds: float = 20
) -> None:
    """These jobs, the only ones there have been, each ended once, completely, undisturbed."""
    wait_until_over(redis, requests, seconds)
    for request in requests:
        assert_whole(log_of(redis, request.id), request)
    assert_written(settings, redis, *requests)
    assert_clean(redis, *requests)


def rows(settings: Settings) -> dict[str, Interaction]:
    store = Store.open(settings)
    found = {row.id: row for row in store.recent(100_000)}
    store.close()
    return found


def assert_written(settings: Settings, redis: Redis, *requests: GenerationRequest) -> None:
    """Each job's row is what its log adds up to, and the log is going to expire."""
    stored = rows(settings)
    for request in requests:
        log, row = log_of(redis, request.id), stored[request.id]
        end = log[-1]
        assert isinstance(end, events.TERMINAL)
        assert (row.response, row.status) == (text(log), _STATUS[type(end)])
        assert row.total_seconds == end.timings.total  # so it is the row of this very end
        assert redis.ttl(names.events(request.id)) > 0
        assert redis.ttl(names.ended(request.id)) > 0


def assert_clean(redis: Redis, *requests: GenerationRequest) -> None:
    """RQ's books are closed, and MiniVault's hold nothing that does not expire."""
    keys = {key for key in redis.keys("minivault:*") if redis.ttl(key) == -1}
    assert {key for key in keys if not key.startswith(_KEPT)} == set()
    for model in {request.model for request in requests}:
        queue = rq_queue(redis, model)
        assert (queue.job_ids, queue.started_job_registry.get_job_ids()) == ([], [])
        ended_jobs = [
            *queue.failed_job_registry.get_job_ids(),
            *queue.finished_job_registry.get_job_ids(),
        ]
        assert sorted(ended_jobs) == sorted(r.id for r in requests if r.model == model)
    assert redis.keys("rq:execution*") == redis.keys("rq:worker:*:executions") == []


def assert_idle(redis: Redis, *workers: str) -> None:
    """As RQ's dashboards show it."""

    def states() -> set[tuple[str, int]]:
        return {
            (worker.get_state(), worker.current_execution_count)
            for worker in BaseWorker.all(connection=redis)
            if worker.name in workers
        }

    until(lambda: states() == {("idle", 0)}, what=f"rest of {workers}")
