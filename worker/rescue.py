"""What becomes of a job that nobody works on: it goes on, or it ends."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis

from shared import names
from shared.errors import DecodeError, JobNotFoundError, WorkerLostError
from shared.events import FinishReason
from shared.job import now
from shared.ledger import GUILTY, Ledger
from shared.log import EventLog
from shared.logging import get_logger
from worker.attempts import Attempts
from worker.books import discard_leftovers, write_off
from worker.metrics import WorkerMetrics
from worker.run import Outcome, Run, outcome_of
from worker.traces import RunTraces


class Rescue:
    """Claims a job before it decides anything, so that each is rescued once."""

    def __init__(
        self,
        redis: Redis,
        *,
        ledger: Ledger,
        log: EventLog,
        attempts: Attempts,
        metrics: WorkerMetrics,
        traces: RunTraces,
        finish: Callable[[Run, Outcome], None],
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._log = log
        self._attempts = attempts
        self._metrics = metrics
        self._traces = traces
        self._finish = finish

    def recover(self, job_id: str, *, owner: str = "", died: bool = False) -> None:
        """Have a job go on, unless it has ended or should. `owner` is who had it until now."""
        began = now()
        run = self._seize(job_id, owner)
        if run is None:
            return

        def recovered(outcome: str) -> None:
            self._metrics.recovered(outcome)
            self._traces.recovered(run, outcome, owner=owner, began=began)

        if run.ended is not None:
            recovered("ended")
            self._end(run, outcome_of(run.ended))
        elif self._redis.sismember(names.CANCELS, job_id):
            recovered("cancelled")
            self._end(run, Outcome(FinishReason.CANCELLED))
        elif died and self._ledger.strike(job_id, owner, len(run.ids)) >= GUILTY:
            recovered("given_up")
            run.logger.error("job given up")
            self._end(run, Outcome(FinishReason.ERROR, WorkerLostError()))
        elif self._ledger.put_back(run.claim, run.request.created_at):
            recovered("put_back")
            run.logger.warning("job put back", tokens=len(run.ids), died=died)

    def end(self, job_id: str, outcome: Outcome) -> None:
        """End a job that waits."""
        run = self._seize(job_id, "")
        if run is not None:
            self._end(run, outcome if run.ended is None else outcome_of(run.ended))

    def _seize(self, job_id: str, owner: str) -> Run | None:
        try:
            request, _ = self._log.read_job(job_id)
        except (JobNotFoundError, DecodeError) as error:
            get_logger().error("job lost", job_id=job_id, reason=error.detail)
            write_off(self._redis, job_id, error.detail)
            self._ledger.forget(job_id)
            return None
        claim = self._ledger.seize(job_id, request.model, expected=owner)
        if claim is None:
            return None
        discard_leftovers(self._redis, job_id, request.model)
        # Again: only from the claim on is it certain that nobody appends.
        return Run.from_log(claim, *self._log.read_job(job_id))

    def _end(self, run: Run, outcome: Outcome) -> None:
        self._attempts.begin(run, in_slot=False)
        self._finish(run, outcome)
