"""Jobs and their books as tests of single transitions use them."""

from redis import Redis

from shared.claim import Claim
from shared.events import Failed, Timings, Usage
from shared.job import GenerationRequest
from shared.ledger import Ledger
from shared.queue import rq_queue
from tests.support.jobs import MODEL, generation, ledger


def prompts(*names_of_jobs: str, **more: object) -> list[GenerationRequest]:
    return [generation(name, **more) for name in names_of_jobs]


def take_all(book: Ledger) -> list[Claim]:
    claims = []
    while (claim := book.take()) is not None:
        claims.append(claim)
    return claims


def taken(redis: Redis, request: GenerationRequest) -> Claim:
    claim = ledger(redis).take()
    assert claim is not None
    assert claim.job_id == request.id
    return claim


def failure(seq: int) -> Failed:
    return Failed(
        seq=seq,
        code="generation_failed",
        message="it broke",
        usage=Usage(prompt_tokens=1, completion_tokens=0),
        timings=Timings(queue=0, prefill=0, decode=0, total=0),
    )


def listed(redis: Redis) -> list[str]:
    """What RQ's dashboards show of the queue."""
    return rq_queue(redis, MODEL).job_ids


def left(redis: Redis) -> set[str]:
    """Keys that stay for ever unless somebody strikes them."""
    return {key.decode() for key in redis.keys("minivault:*") if redis.ttl(key) == -1}
