"""Makes true what was done to RQ's queues by hand, with a dashboard or RQ's own commands."""

from __future__ import annotations

from redis import Redis
from rq.worker_registration import clean_worker_registry

from shared import names
from shared.events import FinishReason
from shared.failed import put_back
from shared.logging import get_logger
from shared.queue import queued_models, rq_queue
from worker.books import write_off
from worker.rescue import Rescue
from worker.run import Outcome


class Reconciler:
    """Compares RQ's lists with the order in which MiniVault serves."""

    def __init__(self, redis: Redis, rescue: Rescue) -> None:
        self._redis = redis
        self._rescue = rescue

    def look(self) -> None:
        for model in queued_models(self._redis):
            self._compare(model)
            clean_worker_registry(rq_queue(self._redis, model))

    def _compare(self, model: str) -> None:
        queue = rq_queue(self._redis, model)
        with self._redis.pipeline() as pipe:  # one moment for both
            pipe.llen(queue.key)
            pipe.zcard(names.order(model))
            if len(set(pipe.execute())) == 1:
                return
            pipe.lrange(queue.key, 0, -1)
            pipe.zrange(names.order(model), 0, -1)
            listed, ordered = ({member.decode() for member in found} for found in pipe.execute())
        for job_id in ordered - listed:  # taken out, or deleted
            get_logger().info("job was taken out of its queue by hand", job_id=job_id)
            self._rescue.end(job_id, Outcome(FinishReason.CANCELLED))
        for job_id in listed - ordered:  # put back
            if put_back(self._redis, job_id):
                continue
            queue.remove(job_id)
            if not self._redis.exists(names.events(job_id)):
                write_off(self._redis, job_id, "This job did not come through MiniVault's API.")
