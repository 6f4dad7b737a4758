"""A worker is killed at each step of a job's life: the job ends once, completely."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq.results import Result

from shared.events import Failed
from shared.job import GenerationRequest
from shared.queue import rq_queue
from shared.redis import connect
from shared.settings import Settings
from tests.support.checks import (
    assert_clean,
    assert_contiguous,
    assert_whole,
    assert_written,
    wait_until_over,
)
from tests.support.jobs import MODEL, Submitter, generation, log_of, sampled
from tests.support.traps import STEPS, Trap
from tests.support.valkey import running_valkey
from tests.support.workers import BROKEN_MODEL, Crew, WorkerProcess, crew


class Scene:
    """Who goes on with one test's jobs is the next one's victim: starting workers takes time."""

    def __init__(self, settings: Settings, redis: Redis, trap: Trap, workers: Crew) -> None:
        self.settings = settings
        self.redis = redis
        self.trap = trap
        self.requests: list[GenerationRequest] = []
        """Of all tests so far."""
        self._workers = workers
        self._worker: WorkerProcess | None = None

    def kill(self, step: str, *requests: GenerationRequest) -> None:
        """Run the jobs on a worker that dies at `step`, and start another one."""
        self.requests += requests
        if self._worker is None:
            self._worker = self._workers.start_one(**self.trap.environment)
        doomed, self._worker = self._worker, None
        self.trap.set(step)
        Submitter(self.settings).submit(*requests)
        self._workers.report(doomed)
        assert self.trap.has_sprung
        self._worker = self._workers.start_one(**self.trap.environment)


@pytest.fixture(scope="module")
def scene(session_settings: Settings, short_tmp: Path) -> Iterator[Scene]:
    settings = session_settings.model_copy(
        update={"data_dir": short_tmp / "steps", "models": (MODEL, BROKEN_MODEL)}
    )
    with (
        running_valkey(settings),
        connect(settings, "test") as redis,
        crew(settings, step_seconds=0.002) as workers,
    ):
        yield Scene(settings, redis, Trap(settings.data_dir), workers)


def before_and_after(*steps: str) -> list[str]:
    return [f"{when} {step}" for step in steps for when in ("before", "after")]


@pytest.mark.parametrize("step", before_and_after(*STEPS))
def test_a_kill_at_any_step_costs_nothing(scene: Scene, step: str) -> None:
    greedy, other = generation("what it says " * 3), sampled("say", length=40, seed=7)
    scene.kill(step, greedy, other)
    wait_until_over(scene.redis, scene.requests)
    for request in (greedy, other):
        assert_whole(log_of(scene.redis, request.id), request)
    assert_written(scene.settings, scene.redis, *scene.requests)
    assert_clean(scene.redis, *scene.requests)
    for request in (greedy, other):
        job = rq_queue(scene.redis, MODEL).fetch_job(request.id)
        assert job.get_status() == "finished"
        assert job.latest_result().type == Result.Type.SUCCESSFUL


@pytest.mark.parametrize("step", before_and_after("last append", "close"))
def test_a_job_that_fails_fails_once(scene: Scene, step: str) -> None:
    request = generation(model=BROKEN_MODEL)
    scene.kill(step, request)
    wait_until_over(scene.redis, scene.requests)
    log = log_of(scene.redis, request.id)
    assert_contiguous(log)
    assert isinstance(log[-1], Failed)
    assert (log[-1].code, log[-1].message) == ("model_unavailable", "the weights are torn")
    assert_written(scene.settings, scene.redis, *scene.requests)
    assert_clean(scene.redis, *scene.requests)
    job = rq_queue(scene.redis, BROKEN_MODEL).fetch_job(request.id)
    assert job.get_status() == "failed"
    assert "the weights are torn" in job.latest_result().exc_string
