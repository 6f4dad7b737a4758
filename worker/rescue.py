"""What becomes of a job that nobody works on: it goes on, or it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redis import Redis

from shared import names
from shared.errors import DecodeError, JobNotFoundError, WorkerLostError
from shared.events import AnyEvent, FinishReason, Queued, Token
from shared.ledger import Ledger
from shared.log import EventLog
from shared.logging import get_logger
from worker.attempts import Attempts
from worker.books import discard_leftovers, write_off
from worker.run import Outcome, Run, outcome_of

_GUILTY: Final = 6
_AT_WORK: Final = 2
_IN_LINE: Final = 1
"""What a worker's death weighs for a job that was being computed, and for one that waited its
turn. Three deaths at work without a token in between, and the job is taken for their reason."""


class Rescue:
    """Claims a job before it decides anything, so that each is rescued once."""

    def __init__(
        self,
        redis: Redis,
        *,
        ledger: Ledger,
        log: EventLog,
        attempts: Attempts,
        finish: Callable[[Run, Outcome], None],
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._log = log
        self._attempts = attempts
        self._finish = finish

    def recover(self, job_id: str, *, owner: str = "", died: bool = False) -> None:
        """Have a job go on, unless it has ended or should. `owner` is who had it until now."""
        seized = self._seize(job_id, owner)
        if seized is None:
            return
        run, log = seized
        if run.ended is not None:
            self._end(run, outcome_of(run.ended))
        elif self._redis.sismember(names.CANCELS, job_id):
            self._end(run, Outcome(FinishReason.CANCELLED))
        elif died and self._weigh(run, log[-1]) >= _GUILTY:
            get_logger().error("job given up", job=job_id)
            self._end(run, Outcome(FinishReason.ERROR, WorkerLostError()))
        elif self._ledger.put_back(run.claim, run.request.created_at):
            get_logger().warning("job put back", job=job_id, tokens=len(run.ids), died=died)

    def end(self, job_id: str, outcome: Outcome) -> None:
        """End a job that waits."""
        seized = self._seize(job_id, "")
        if seized is not None:
            run, _ = seized
            self._end(run, outcome if run.ended is None else outcome_of(run.ended))

    def _seize(self, job_id: str, owner: str) -> tuple[Run, list[AnyEvent]] | None:
        try:
            request, _ = self._log.read_job(job_id)
        except (JobNotFoundError, DecodeError) as error:
            get_logger().error("job lost", job=job_id, reason=error.detail)
            write_off(self._redis, job_id, error.detail)
            self._ledger.forget(job_id)
            return None
        claim = self._ledger.seize(job_id, request.model, expected=owner)
        if claim is None:
            return None
        discard_leftovers(self._redis, job_id, request.model)
        # Again: only from the claim on is it certain that nobody appends.
        request, log = self._log.read_job(job_id)
        return Run.from_log(claim, request, log), log

    def _end(self, run: Run, outcome: Outcome) -> None:
        self._finish(self._attempts.begin(run.claim, in_slot=False), outcome)

    def _weigh(self, run: Run, last: AnyEvent) -> int:
        """How much speaks for the job being what its workers die of; noted for the next time."""
        noted: bytes | None = self._redis.hget(names.STRIKES, run.id)  # type: ignore[assignment]
        weight, tokens = map(int, (noted or b"0@0").split(b"@"))
        got_further = len(run.ids) > tokens
        if got_further:
            weight = 0
        waited = isinstance(last, Queued) or (isinstance(last, Token) and not got_further)
        weight += _IN_LINE if waited else _AT_WORK
        self._redis.hset(names.STRIKES, run.id, f"{weight}@{len(run.ids)}")
        return weight
