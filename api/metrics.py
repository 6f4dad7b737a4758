"""What an API process counts, and what it can say of the queues for all processes."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from api.deadline import in_time
from shared import names
from shared.errors import RedisUnavailableError
from shared.queue import workers_async

METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class ApiMetrics:
    """A registry of its own: nothing happens at import. No label has a value that clients make."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"minivault_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"minivault_{name}", text, labels, registry=registry)

        self._answers = counter(
            "http_requests", "Requests answered; streams when they end.", "method", "status"
        )
        self._refusals = counter(
            "refusals", "Requests answered with a problem document, by its code.", "code"
        )
        self._repairs = counter(
            "relay_repairs", "Times that a stream got from the log what pub/sub had not brought."
        )
        self._store_failures = counter(
            "history_failures", "Questions to the interactions database that it did not answer."
        )
        self._webhooks = counter(
            "webhooks", "Attempts to deliver a webhook, by how they ended.", "outcome"
        )
        self.streams = gauge("streams", "Jobs that clients of this process follow.")
        self._redis_up = gauge("redis_up", "1 if Redis has answered just now.")
        self._memory = gauge("redis_memory_bytes", "What Redis uses.")
        self._memory_limit = gauge("redis_memory_limit_bytes", "Its maxmemory; 0: none.")
        self._waiting = gauge("requests_waiting", "Jobs that wait for a slot.", "model")
        self._claimed = gauge("jobs_claimed", "Jobs that some worker has.")
        self._unsaved = gauge("jobs_unsaved", "Ended jobs whose row is still to be written.")
        self._workers = gauge("workers", "Live workers that serve a model.", "model")

    def answered(self, method: str, status: int, problem: str | None) -> None:
        self._answers.labels(method if method in METHODS else "other", str(status)).inc()
        if problem is not None:
            self._refusals.labels(problem).inc()

    def store_failed(self) -> None:
        self._store_failures.inc()

    def webhook(self, outcome: str) -> None:
        """`delivered`, `failed` and to be tried again, or `given_up`."""
        self._webhooks.labels(outcome).inc()

    def repaired(self) -> None:
        self._repairs.inc()

    async def exposition(self, redis: Redis, models: tuple[str, ...]) -> bytes:
        """All of it, in Prometheus' text format. `models` are those of the settings."""
        try:
            async with in_time():
                await self._look(redis, models)
        except (RedisError, RedisUnavailableError):
            self._redis_up.set(0)
            for gauge in (self._waiting, self._workers):
                gauge.clear()  # nothing is known; what was is not
        return generate_latest(self._registry)

    async def _look(self, redis: Redis, models: tuple[str, ...]) -> None:
        workers = await workers_async(redis)
        added: set[bytes] = await redis.smembers(names.SERVED)  # type: ignore[assignment]
        models = tuple(dict.fromkeys([*models, *sorted(name.decode() for name in added)]))
        pipe = redis.pipeline(transaction=False)
        for model in models:
            pipe.zcard(names.order(model))
        pipe.hlen(names.CLAIMS)
        pipe.scard(names.UNSAVED)
        *waiting, claimed, unsaved = await pipe.execute()
        self._redis_up.set(1)
        for model, count in zip(models, waiting, strict=True):
            self._waiting.labels(model).set(count)
            self._workers.labels(model).set(sum(model in worker.models for worker in workers))
        self._claimed.set(claimed)
        self._unsaved.set(unsaved)
        with suppress(ResponseError):  # an ACL may keep this to administrators
            memory = await redis.info("memory")
            self._memory.set(memory["used_memory"])
            self._memory_limit.set(memory["maxmemory"])
