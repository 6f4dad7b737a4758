"""Jobs as tests submit and watch them, without an API."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from redis import Redis

from shared import events, job, names
from shared.allotment import Allotment
from shared.claim import Claim
from shared.ending import Ending
from shared.errors import JobNotFoundError
from shared.events import AnyEvent
from shared.job import GenerationRequest, SamplingParams
from shared.ledger import Ledger
from shared.log import Append, EventLog
from shared.queue import Idempotency, JobQueue, Limits, Submission
from shared.redis import connect, connect_async
from shared.settings import Settings
from tests.support.poll import until
from worker.engine.base import EngineRequest
from worker.engine.fake import CodePoints, FakeEngine

MODEL: Final = "smollm2-135m"


def generation(
    prompt: str = "hello", *, model: str = MODEL, max_tokens: int = 1000, **more: Any
) -> GenerationRequest:
    """A greedy request; the fake engine answers it with its prompt."""
    params = more.pop("params", None) or SamplingParams(
        max_tokens=max_tokens, temperature=0, seed=1
    )
    return GenerationRequest(
        **{
            "id": job.new_job_id(),
            "model": model,
            "prompt": prompt,
            "params": params,
            "created_at": job.now(),
            **more,
        }
    )


class Submitter:
    """`JobQueue` for tests that are not asynchronous."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def submit(
        self,
        *requests: GenerationRequest,
        ttl: float = 3600,
        attended_for: float | None = None,
        max_queued: int = 100_000,
        max_in_flight: int = 100_000,
        idempotency: Idempotency | None = None,
        seconds_per_job: float | None = None,
        allotment: Allotment | None = None,
    ) -> list[str]:
        """Submit in order, over one connection; returns the jobs' ids."""

        async def submit_all(queue: JobQueue) -> list[str]:
            return [
                await queue.submit(
                    request,
                    Submission(
                        limits=Limits(max_queued, max_in_flight),
                        ttl=ttl,
                        attended_for=attended_for,
                        idempotency=idempotency,
                        seconds_per_job=seconds_per_job,
                        allotment=allotment,
                    ),
                )
                for request in requests
            ]

        return self._with_queue(submit_all)

    def cancel(self, job_id: str) -> bool:
        return self._with_queue(lambda queue: queue.cancel(job_id))

    def _with_queue(self, action: Any) -> Any:
        async def run() -> Any:
            with connect(self._settings, "test") as rq_redis:
                async with connect_async(self._settings, "test") as redis:
                    queue = JobQueue(redis, result_ttl=600, rq_redis=rq_redis)
                    return await action(queue)

        return asyncio.run(run())


def ledger(redis: Redis, worker: str = "test") -> Ledger:
    return Ledger(redis, worker, [MODEL])


def append(redis: Redis, claim: Claim, *appended: AnyEvent) -> list[bool]:
    """As the worker that holds the claim."""
    return EventLog(redis).append_all(
        [Append(claim.job_id, claim.owner, event) for event in appended]
    )


def let_go(
    book: Ledger,
    claim: Claim,
    request: GenerationRequest,
    *,
    saved: bool,
    log_ttl: int,
    used: int = 0,
    seconds: float | None = None,
) -> bool:
    """Of one job that has ended; False if it is the ledger's worker's no more."""
    (done,) = book.finish([Ending(claim, request, saved, log_ttl, used, seconds)])
    return done


def log_of(redis: Redis, job_id: str) -> list[AnyEvent]:
    """What has happened to a job so far; nothing if there is none."""
    try:
        return EventLog(redis).read_job(job_id)[1]
    except JobNotFoundError:
        return []


def ended(redis: Redis, job_id: str, seconds: float = 20) -> list[AnyEvent]:
    """The log of a job, once it has ended."""

    def has_ended() -> bool:
        last: Any = redis.xrevrange(names.events(job_id), count=1)
        return bool(last) and last[0][1][b"end"] == b"1"

    until(has_ended, seconds=seconds, what=f"the end of {job_id}")
    return log_of(redis, job_id)


def text(log: list[AnyEvent]) -> str:
    return "".join(events.text_of(event) for event in log)


def undisturbed(request: GenerationRequest) -> str:
    """What the fake engine says to a request if nothing comes in between."""
    engine = FakeEngine()
    ids = CodePoints().encode(request.prompt)
    engine.add(EngineRequest(id="alone", prompt_ids=ids, params=request.params))
    said = ""
    while engine.has_work:
        said += "".join(output.text for output in engine.step())
    return request.prompt * request.echo + said


def sampled(prompt: str, *, length: int, seed: int, **more: Any) -> GenerationRequest:
    """A request that the fake engine answers with letters drawn from its seed."""
    params = SamplingParams(max_tokens=length, temperature=1, seed=seed)
    return generation(prompt, params=params, **more)


def streams(count: int, length: int = 200) -> list[GenerationRequest]:
    """Half of them greedy, half sampled; `length` in tokens."""
    greedy = [
        generation(f"{number % 10} " * (length // 2), max_tokens=4000)
        for number in range(count // 2)
    ]
    return greedy + [sampled("say", length=length, seed=seed) for seed in range(count // 2)]


def under_way(redis: Redis, requests: Iterable[GenerationRequest], characters: int = 10) -> None:
    """Wait until each has said so much."""
    for request in requests:
        key = names.events(request.id)
        until(
            lambda request=request, key=key: (
                redis.xlen(key) > 2 and len(text(log_of(redis, request.id))) > characters
            ),
            what="some tokens",
        )
