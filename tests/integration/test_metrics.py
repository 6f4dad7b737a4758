"""What is counted, to the unit, after a load that is known."""

import random

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from starlette.types import Receive, Scope, Send

from api.app import create_app
from shared.events import AnyEvent, Started, Token
from shared.settings import Settings
from tests.support.api import free_port, read_sse, running_api
from tests.support.checks import wait_until_over
from tests.support.jobs import (
    MODEL,
    Submitter,
    generation,
    ledger,
    log_of,
    sampled,
    streams,
    under_way,
)
from tests.support.poll import until
from tests.support.scripted_worker import Author, ScriptedWorker, words
from tests.support.workers import BROKEN_MODEL, crew

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Samples:
    """Every sample, without what tells of the process."""
    response = httpx.get(f"{url}/metrics")
    assert response.is_success
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def tokens_in(log: list[AnyEvent]) -> int:
    return sum(len(event.ids) for event in log if isinstance(event, Token))


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"minivault_{name}", tuple(sorted(labels.items()))]


@pytest.fixture
def served(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"slots": 4, "models": (MODEL, BROKEN_MODEL), "metrics_port": free_port()}
    )


@pytest.fixture
def queue(served: Settings) -> Submitter:
    return Submitter(served)


@pytest.fixture
def worker_url(served: Settings) -> str:
    return f"http://127.0.0.1:{served.metrics_port}"


def test_a_worker_counts_what_it_did(
    served: Settings, queue: Submitter, redis: Redis, worker_url: str
) -> None:
    whole = [generation("x" * length) for length in (1, 10, 40)]
    cut = [sampled("say", length=20, seed=seed) for seed in (1, 2)]
    broken = generation("y", model=BROKEN_MODEL)
    stopped = generation("z" * 3000, max_tokens=3000)
    requests = [*whole, *cut, broken, stopped]
    with crew(served, step_seconds=0.002) as workers:
        workers.start_one()
        queue.submit(*requests)
        under_way(redis, [stopped])
        queue.cancel(stopped.id)
        wait_until_over(redis, requests)
        found = scrape(worker_url)
    served_here = [*whole, *cut, stopped]
    tokens = [tokens_in(log_of(redis, request.id)) for request in served_here]
    assert tokens[:5] == [1, 10, 40, 20, 20]
    for reason, count in {"stop": 3, "length": 2, "cancelled": 1}.items():
        assert of(found, "requests_total", model=MODEL, finish_reason=reason) == count
    assert of(found, "requests_total", model=BROKEN_MODEL, finish_reason="error") == 1
    assert of(found, "request_errors_total", code="model_unavailable") == 1
    assert of(found, "generation_tokens_total", model=MODEL) == sum(tokens)
    assert of(found, "prompt_tokens_total", model=MODEL) == sum(len(r.prompt) for r in served_here)
    counts = {
        "request_queue_time_seconds": len(served_here),
        "time_to_first_token_seconds": len(served_here),
        "inter_token_latency_seconds": sum(tokens) - len(served_here),
        "e2e_request_latency_seconds": len(served_here),
    }
    for name, count in counts.items():
        assert of(found, f"{name}_count", model=MODEL) == count
        assert of(found, f"{name}_bucket", model=MODEL, le="+Inf") == count
    assert of(found, "request_queue_time_seconds_count", model=BROKEN_MODEL) == 1
    # Each token took a step of 2 ms at least, and came after the wait in line.
    between = of(found, "inter_token_latency_seconds_sum", model=MODEL)
    assert 0.002 * (sum(tokens) - len(tokens)) <= between
    waits = of(found, "request_queue_time_seconds_sum", model=MODEL)
    firsts = of(found, "time_to_first_token_seconds_sum", model=MODEL)
    assert waits < firsts < of(found, "e2e_request_latency_seconds_sum", model=MODEL)
    assert of(found, "engine_step_seconds_count", model=MODEL) >= max(tokens)
    assert of(found, "slots") == 4
    assert of(found, "requests_running") == of(found, "kv_cache_usage") == 0


def test_a_continued_job_is_one_request(
    served: Settings, queue: Submitter, redis: Redis, worker_url: str
) -> None:
    requests = streams(4, 100)
    with crew(served, step_seconds=0.005, hurried=True) as workers:
        dying = workers.start_one()
        queue.submit(*requests)
        under_way(redis, requests)
        dying.kill()
        before = [tokens_in(log_of(redis, request.id)) for request in requests]
        workers.report(dying)
        workers.start_one()
        wait_until_over(redis, requests)
        found = scrape(worker_url)
    assert of(found, "recoveries_total", outcome="put_back") == 4
    total = sum(tokens_in(log_of(redis, request.id)) for request in requests)
    assert of(found, "generation_tokens_total", model=MODEL) == total - sum(before)
    assert ("minivault_time_to_first_token_seconds_count", (("model", MODEL),)) not in found
    assert of(found, "e2e_request_latency_seconds_count", model=MODEL) == 4


def test_a_frozen_workers_appends_are_counted_as_fenced(
    served: Settings, queue: Submitter, redis: Redis, worker_url: str
) -> None:
    request = generation("x" * 400)
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        frozen = workers.start_one()
        queue.submit(request)
        under_way(redis, [request])
        frozen.freeze()
        owner = ledger(redis).owners()[request.id]
        assert ledger(redis).seize(request.id, MODEL, expected=owner) is not None
        frozen.thaw()
        until(lambda: of(scrape(worker_url), "fenced_appends_total") == 1, what="the refusal")


def test_a_worker_says_whether_it_takes_jobs(served: Settings, worker_url: str) -> None:
    with crew(served) as workers:
        worker = workers.start_one()
        assert httpx.get(f"{worker_url}/healthz").text == "ok\n"
        assert httpx.get(f"{worker_url}/readyz").text == "ok\n"
        assert httpx.get(f"{worker_url}/elsewhere").text == "There is no /elsewhere here.\n"
        assert httpx.get(f"{worker_url}/readyz").text == "ok\n"
        worker.process.terminate()
        assert worker.process.wait(timeout=10) == 0


def test_an_api_counts_answers_and_tells_of_the_queues(
    served: Settings, queue: Submitter, redis: Redis
) -> None:
    queue.submit(generation("waits"), generation("waits, too"))
    ScriptedWorker(redis, MODEL, words()).announce()
    with running_api(served, rate_limit="3/minute", metrics_port=0) as url:
        for _ in range(4):
            httpx.post(f"{url}/jobs", json={"prompt": "x"})
        httpx.get(f"{url}/jobs/job-none")
        httpx.request("PROPFIND", f"{url}/tea")
        found = scrape(url)
    assert of(found, "http_requests_total", method="POST", status="202") == 3
    assert of(found, "http_requests_total", method="POST", status="429") == 1
    assert of(found, "http_requests_total", method="other", status="404") == 1
    assert of(found, "refusals_total", code="rate_limited") == 1
    assert of(found, "refusals_total", code="job_not_found") == 1
    assert of(found, "requests_waiting", model=MODEL) == 5
    assert of(found, "workers", model=MODEL) == 1
    assert of(found, "workers", model=BROKEN_MODEL) == 0
    assert of(found, "redis_up") == 1
    assert of(found, "redis_memory_bytes") > 100_000
    assert of(found, "redis_memory_limit_bytes") == 0
    assert of(found, "streams") == of(found, "jobs_unsaved") == 0


def test_a_repair_is_counted(settings: Settings, redis: Redis) -> None:
    with (
        running_api(settings) as url,
        httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as response,
    ):
        events = read_sse(response)
        author = Author(redis, next(events).data["id"])
        author.append(Started(seq=2, prompt_tokens=1))
        assert next(events).event == "started"
        assert of(scrape(url), "relay_repairs_total") == 0
        assert of(scrape(url), "streams") == 1
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        author.append(Token(seq=3, ids=(1,), text="lost on the way"))
        assert next(events).event == "token"
        assert of(scrape(url), "relay_repairs_total") == 1


async def test_no_client_can_make_labels(settings: Settings, redis: Redis) -> None:
    draw = random.Random(1)

    async def ask(client: httpx.AsyncClient) -> None:
        word = f"{draw.getrandbits(64):x}"
        method = draw.choice(["GET", "POST", "DELETE", word.upper()])
        path = draw.choice([f"/{word}", f"/jobs/{word}", f"/jobs/job-{word * 2}", "/generate"])
        body = {"prompt": word, "model": word, word: word}
        headers = {"X-Request-ID": word, "User-Agent": word}
        await client.request(method, path, json=body, headers=headers)

    app = create_app(settings.model_copy(update={"rate_limit": "off"}))
    async with app.router.lifespan_context(app) as lifespan:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope | {"state": dict(lifespan)}, receive, send)

        async def names() -> set[str]:
            text = (await client.get("/metrics")).text
            return {line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"}

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for _ in range(1_000):
                await ask(client)
            early = await names()
            for _ in range(9_000):
                await ask(client)
            late = await names()
    assert sum("http_requests_total" in name for name in early) > 5
    assert late == early
    assert len(late) < 100
