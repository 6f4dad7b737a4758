"""What the operator sees of jobs, and does about those that failed."""

import json
import socket
from collections.abc import Sequence
from functools import partial

import msgspec
import pytest
from redis import Redis

from cli.books import FAILED, RUNNING, STUCK, UNSAVED, WAITING, Books
from shared import events, names
from shared.claim import Claim
from shared.events import Failed, Queued, Started, Timings, Token, Usage
from shared.job import GenerationRequest
from shared.ledger import Ledger
from shared.queue import FAILURE_TTL, WorkerInfo, rq_queue
from shared.settings import Settings
from tests.support.commands import minivault
from tests.support.jobs import MODEL, Submitter, append, generation, let_go, log_of

USAGE = Usage(prompt_tokens=1, completion_tokens=1)
TIMINGS = Timings(queue=0, prefill=0, decode=0, total=0)
LOST = Failed(seq=4, code="worker_lost", message="It died.", usage=USAGE, timings=TIMINGS)


@pytest.fixture
def run(monkeypatch, tmp_path, settings: Settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIVAULT_REDIS_URL", settings.effective_redis_url)
    return partial(minivault, monkeypatch)


@pytest.fixture
def worker(redis: Redis) -> Ledger:
    """One that lives, as far as Redis knows."""
    return announce(redis, "lively")


def announce(redis: Redis, name: str, models: Sequence[str] = (MODEL,)) -> Ledger:
    info = WorkerInfo(
        pid=1,
        models=tuple(models),
        loaded=(),
        slots=4,
        running=0,
        kv_bytes=0,
        host=socket.gethostname(),
    )
    redis.sadd("rq:workers", f"rq:worker:{name}")
    redis.set(names.worker_info(name), msgspec.json.encode(info))
    return Ledger(redis, name, models)


def take(worker: Ledger) -> Claim:
    claim = worker.take()
    assert claim is not None
    return claim


def fail(redis: Redis, worker: Ledger, request: GenerationRequest, *, saved: bool = True) -> None:
    """The job that is next, as a worker ends one that fails."""
    claim = take(worker)
    assert claim.job_id == request.id
    begun = (Started(seq=2, prompt_tokens=1), Token(seq=3, ids=(7,), text="Half"), LOST)
    assert all(append(redis, claim, *begun))
    rq = rq_queue(redis, MODEL)
    job = rq.fetch_job(claim.job_id)
    assert job is not None
    rq.failed_job_registry.add(job, FAILURE_TTL)
    assert let_go(worker, claim, request, saved=saved, log_ttl=FAILURE_TTL)


def test_each_job_is_in_its_state(redis: Redis, settings: Settings, worker: Ledger) -> None:
    elsewhere = settings.model_copy(update={"models": (MODEL, "other")})
    failed, unsaved, running, gone, nowhere, first, second = (generation() for _ in range(7))
    unserved = generation(model="other")
    Submitter(elsewhere).submit(failed, unsaved, running, gone, nowhere, first, second, unserved)
    fail(redis, worker, failed)
    fail(redis, worker, unsaved, saved=False)
    take(worker)
    take(Ledger(redis, "dead", [MODEL]))
    redis.hset(names.STRIKES, gone.id, "2@0")
    redis.zrem(names.order(MODEL), nowhere.id)
    books = Books(redis)
    assert [(each.id, each.state, each.note) for each in books.unfinished()] == [
        (unsaved.id, UNSAVED, "has ended, its row is not written yet"),
        (running.id, RUNNING, "lively"),
        (gone.id, STUCK, "dead is gone"),
        (nowhere.id, STUCK, "in no queue"),
        (first.id, WAITING, "0 in front"),
        (second.id, WAITING, "1 in front"),
        (unserved.id, STUCK, "no worker serves its model"),
    ]
    assert [each.model for each in books.unfinished()] == [MODEL] * 6 + ["other"]
    assert [each.id for each in books.unfinished() if each.retried] == [gone.id]
    (note,) = books.failed()
    assert (note.id, note.model, note.state) == (failed.id, MODEL, FAILED)
    assert note.note == "worker_lost: It died."
    assert note.submitted_at == pytest.approx(failed.created_at, abs=5)


def test_the_list_is_a_line_per_job(
    run, redis: Redis, settings: Settings, worker: Ledger, capsys
) -> None:
    failed, waiting = generation(), generation()
    Submitter(settings).submit(failed, waiting)
    fail(redis, worker, failed)
    assert run("jobs", "list") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [[line[0], line[1], line[2], line[4]] for line in lines] == [
        [waiting.id, MODEL, "waiting", "0 in front"],
        [failed.id, MODEL, "failed", "worker_lost: It died."],
    ]
    assert all(line[3].endswith(" s") for line in lines)
    assert run("jobs", "list", "--failed", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["id"], found["note"]) == (failed.id, "worker_lost: It died.")


def test_a_job_whose_failure_has_expired_is_not_listed(
    redis: Redis, settings: Settings, worker: Ledger
) -> None:
    request = generation()
    Submitter(settings).submit(request)
    fail(redis, worker, request)
    redis.zadd(rq_queue(redis, MODEL).failed_job_registry.key, {request.id: 1})
    assert Books(redis).failed() == []
    assert Books(redis).failed_count == 0


def test_a_failed_job_is_put_back_and_goes_on_behind_its_failure(
    run, redis: Redis, settings: Settings, worker: Ledger, capsys
) -> None:
    request, other = generation(client="c"), generation()
    Submitter(settings).submit(request)
    fail(redis, worker, request)
    Submitter(settings).submit(other)
    assert run("jobs", "retry", request.id) == 0
    assert capsys.readouterr().out == f"{request.id}\n"
    log = log_of(redis, request.id)
    assert [event.seq for event in log] == [1, 2, 3, 4, 5]
    assert log[-1] == Queued(seq=5, id=request.id, model=MODEL, position=0)
    assert Books(redis).failed() == []
    assert redis.smembers(names.in_flight("c")) == {request.id.encode()}
    claim = take(worker)  # in front of what came later
    assert claim.job_id == request.id
    assert append(redis, claim, Started(seq=6, prompt_tokens=1)) == [True]


def test_all_failed_jobs_are_put_back(
    run, redis: Redis, settings: Settings, worker: Ledger, capsys
) -> None:
    requests = [generation(), generation()]
    Submitter(settings).submit(*requests)
    for request in requests:
        fail(redis, worker, request)
    assert run("jobs", "retry", "--all") == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(each.id for each in requests)
    assert {take(worker).job_id, take(worker).job_id} == {each.id for each in requests}
    assert run("jobs", "retry", "--all") == 0  # none is no failure
    assert capsys.readouterr().out == ""


def test_only_failed_jobs_are_put_back(
    run, redis: Redis, settings: Settings, worker: Ledger, capsys
) -> None:
    failed, waiting, unsaved = generation(), generation(), generation()
    Submitter(settings).submit(failed, unsaved, waiting)
    fail(redis, worker, failed)
    fail(redis, worker, unsaved, saved=False)
    assert run("jobs", "retry", "job-none", waiting.id, unsaved.id, failed.id) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{failed.id}\n"
    assert captured.err.splitlines() == [
        f"{job_id} is no failed job." for job_id in ("job-none", waiting.id, unsaved.id)
    ]
    assert events.is_terminal(log_of(redis, unsaved.id)[-1])


@pytest.mark.parametrize("arguments", [[], ["job-1", "--all"]])
def test_retry_wants_to_know_which(run, capsys, arguments: list[str]) -> None:
    assert run("jobs", "retry", *arguments) == 2
    assert "Give the ids of jobs, or --all." in capsys.readouterr().err


@pytest.mark.parametrize("command", [["list"], ["retry", "--all"]])
def test_without_redis_it_is_one_line(run, monkeypatch, capsys, command: list[str]) -> None:
    monkeypatch.setenv("MINIVAULT_REDIS_URL", "unix:///nowhere/redis.sock")
    assert run("jobs", *command) == 1
    line = capsys.readouterr().err
    assert line.startswith("Redis at unix:///nowhere/redis.sock can't be reached.")
    assert line.count("\n") == 1
