"""Tells the ends of background jobs to whoever asked for it, until they have heard."""

from __future__ import annotations

import asyncio
import random
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.courier import Courier, UndeliverableError
from api.destinations import Destinations
from api.errors import InvalidRequestError, WebhookNotAllowedError
from api.metrics import ApiMetrics
from api.repeating import end
from api.signature import Signer
from api.transcript import Transcript
from api.views import JobView
from shared import job, log
from shared.deliveries import Deliveries, Delivery
from shared.logging import get_logger
from shared.settings import Settings

DELIVERY_SECONDS: Final = 1.0
_AT_ONCE: Final = 16
FIRST_PAUSE: Final = 5.0
"""Seconds. Doubled after each failure, up to the longest."""
_LONGEST_PAUSE: Final = 3600.0
TRIES: Final = 32
"""The last is about a day after the first. Before the job's log is let go (`KEPT_SECONDS`)."""
_JITTER: Final = 0.2

logger = get_logger()


class Webhooks:
    """Every API process takes what is due. An async context: what is under way ends with it.

    A webhook is delivered at least once: a process that dies behind a delivery leaves it leased,
    and another repeats it, under the same id.
    """

    def __init__(
        self,
        redis: Redis,
        destinations: Destinations,
        signer: Signer,
        metrics: ApiMetrics,
        result_ttl: int,
    ) -> None:
        """`result_ttl`: seconds for which a job can still be read when all is told."""
        self.destinations = destinations
        self._redis = redis
        self._deliveries = Deliveries(redis)
        self._courier = Courier(destinations)
        self._signer = signer
        self._metrics = metrics
        self._result_ttl = result_ttl
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for task in list(self._running):
            await end(task)
        await self._courier.close()

    async def look(self) -> None:
        """Take what is due and begin to deliver it."""
        room = _AT_ONCE - len(self._running)
        if room <= 0:
            return
        for delivery in await self._deliveries.take(room):
            task = asyncio.create_task(self._deliver(delivery), name="webhook")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        except RedisError as error:  # the lease runs out, and it is tried again
            logger.warning("webhook not settled", job_id=delivery.job_id, error=str(error))
        except Exception:
            logger.exception("unexpected error", job_id=delivery.job_id)

    async def _attempt(self, delivery: Delivery) -> None:
        request = await log.read_request(self._redis, delivery.job_id)
        events = await log.read(self._redis, delivery.job_id)
        transcript = Transcript(events)
        if request is None:
            await self._give_up(delivery, "the job has expired", None)
            return
        if not transcript.ended:  # it was put back, and will end again
            await self._deliveries.close(delivery, None)
            return
        log_ttl = None if transcript.error is not None else self._result_ttl
        body = JobView.model_validate(transcript).model_dump_json().encode()
        # An id for each end that a job comes to: one that was put back has another.
        headers = self._signer.headers(f"{request.id}.{events[-1].seq}", int(job.now()), body)
        headers["Content-Type"] = "application/json"
        headers["User-Agent"] = "MiniVault"
        try:
            status = await self._courier.post(request.webhook_url, body, headers)
        except (WebhookNotAllowedError, InvalidRequestError) as error:
            await self._give_up(delivery, error.detail, log_ttl)
            return
        except UndeliverableError as error:
            await self._failed(delivery, str(error), log_ttl)
            return
        if HTTPStatus(200) <= status < HTTPStatus(300):
            self._metrics.webhook("delivered")
            logger.info("webhook delivered", job_id=delivery.job_id, tries=delivery.tries)
            await self._deliveries.close(delivery, log_ttl)
        elif status == HTTPStatus.GONE:  # the receiver's way to say: never again
            await self._give_up(delivery, f"status {status}", log_ttl)
        else:
            await self._failed(delivery, f"status {status}", log_ttl)

    async def _failed(self, delivery: Delivery, reason: str, log_ttl: int | None) -> None:
        if delivery.tries >= TRIES:
            await self._give_up(delivery, reason, log_ttl)
            return
        self._metrics.webhook("failed")
        pause = min(FIRST_PAUSE * 2 ** (delivery.tries - 1), _LONGEST_PAUSE)
        pause *= random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads, hides nothing
        logger.info(
            "webhook failed",
            job_id=delivery.job_id,
            tries=delivery.tries,
            reason=reason,
            again_in=round(pause, 1),
        )
        await self._deliveries.postpone(delivery, pause)

    async def _give_up(self, delivery: Delivery, reason: str, log_ttl: int | None) -> None:
        self._metrics.webhook("given_up")
        logger.warning(
            "webhook given up", job_id=delivery.job_id, tries=delivery.tries, reason=reason
        )
        await self._deliveries.close(delivery, log_ttl)


def webhooks_of(settings: Settings, redis: Redis, metrics: ApiMetrics) -> Webhooks | None:
    """None if the settings allow none.

    Raises:
        SettingsError: the secret can't be read.
    """
    if not settings.webhook_hosts or settings.webhook_secret_file is None:
        return None
    return Webhooks(
        redis,
        Destinations(settings.webhook_hosts),
        Signer.read(settings.webhook_secret_file),
        metrics,
        settings.result_ttl,
    )
