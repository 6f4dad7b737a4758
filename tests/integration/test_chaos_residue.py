"""What `make chaos` takes for left behind in Redis."""

from collections.abc import Callable

import pytest
from redis import Redis

from shared import names
from tests.chaos.residue import residue
from tests.support.scripted_worker import ScriptedWorker

JOB = "job-" + "0" * 32
QUEUE = "generate-smollm2-135m"


def test_a_live_worker_and_jobs_that_expire_are_no_residue(redis: Redis) -> None:
    ScriptedWorker(redis, "smollm2-135m", lambda _: iter(())).announce()
    for key in (names.events(JOB), names.ended(JOB), f"rq:job:{JOB}", f"rq:results:{JOB}"):
        redis.set(key, "", ex=60)
    redis.hset(names.PACE, "smollm2-135m", 1)
    redis.zadd(f"rq:finished:{QUEUE}", {JOB: 1})
    assert residue(redis) == []


@pytest.mark.parametrize(
    ("leave", "found"),
    [
        (lambda redis: redis.zadd(names.JOBS, {JOB: 1}), names.JOBS),
        (lambda redis: redis.hset(names.CLAIMS, JOB, "w/1"), names.CLAIMS),
        (lambda redis: redis.sadd(names.UNSAVED, JOB), names.UNSAVED),
        (lambda redis: redis.zadd(names.order("m"), {JOB: 1}), names.order("m")),
        (lambda redis: redis.sadd(names.in_flight("c"), JOB), names.in_flight("c")),
        (lambda redis: redis.set(names.events(JOB), ""), names.events(JOB)),
        (lambda redis: redis.rpush(f"rq:queue:{QUEUE}", JOB), f"rq:queue:{QUEUE}"),
        (lambda redis: redis.zadd(f"rq:wip:{QUEUE}", {JOB: 1}), f"rq:wip:{QUEUE}"),
        (lambda redis: redis.zadd(f"rq:failed:{QUEUE}", {JOB: 1}), f"rq:failed:{QUEUE}"),
        (lambda redis: redis.set(f"rq:execution:{JOB}:1", ""), f"rq:execution:{JOB}:1"),
        (lambda redis: redis.set(names.worker_info("w"), "", ex=9), names.worker_info("w")),
        (lambda redis: redis.set("rq:worker:w", ""), "rq:worker:w"),
        (lambda redis: redis.sadd("rq:worker:w:executions", JOB), "rq:worker:w:executions"),
        (lambda redis: redis.sadd("rq:workers", "rq:worker:w"), "rq:workers has w, who is dead"),
    ],
)
def test_anything_else_is(redis: Redis, leave: Callable[[Redis], object], found: str) -> None:
    leave(redis)
    assert residue(redis) == [found]
