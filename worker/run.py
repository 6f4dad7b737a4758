"""One job on its way through a worker, from RQ to the end of its log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from shared import job
from shared.errors import GenerationError, MiniVaultError
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Event,
    Failed,
    FinishReason,
    Loading,
    Resumed,
    Started,
    Timings,
    Token,
    Usage,
    is_terminal,
)
from shared.job import GenerationRequest
from shared.store import Interaction
from worker.engine.base import EngineRequest


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a finish reason, and the error if that is why."""

    finish_reason: FinishReason
    error: MiniVaultError | None = None


@dataclass
class Run:
    """A job's state in this worker. Made by intake, advanced by the loop, published, finished.

    `last_seq`, `ids` and `text` tell what the log holds; the publisher keeps them so.
    """

    request: GenerationRequest
    last_seq: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    attempt: int = 1
    ended: AnyEvent | None = None
    """The terminal event, if an earlier attempt has already ended the log."""
    prompt_ids: tuple[int, ...] = ()
    taken_at: float = field(default_factory=job.now)
    first_token_at: float | None = None
    last_token_at: float | None = None
    finished_at: float | None = None
    fenced: bool = False
    """Another worker has taken over; nothing of this run counts any more."""

    @classmethod
    def from_log(cls, request: GenerationRequest, log: Sequence[AnyEvent]) -> Run:
        """Where an earlier attempt left off, or the beginning."""
        run = cls(request)
        for event in log:
            run.note(event)
            if isinstance(event, Started | Resumed):
                run.attempt += 1
            if is_terminal(event):
                run.ended = event
        return run

    @property
    def id(self) -> str:
        return self.request.id

    def note(self, event: Event) -> None:
        """The log has accepted `event`."""
        self.last_seq = event.seq
        if isinstance(event, Token):
            self.ids.extend(event.ids)
            self.text += event.text

    def tick(self) -> None:
        """A token was generated just now."""
        self.last_token_at = job.now()
        self.first_token_at = self.first_token_at or self.last_token_at

    def finish(self) -> None:
        """The clock stops: the row and the event tell the same times."""
        self.finished_at = job.now()

    def earlier_outcome(self) -> Outcome:
        """How the earlier attempt ended that had already ended the log."""
        match self.ended:
            case Done(finish_reason=reason):
                return Outcome(reason)
            case Failed(message=message):
                return Outcome(FinishReason.ERROR, GenerationError(message))
            case _:
                return Outcome(FinishReason.CANCELLED)

    def for_engine(self) -> EngineRequest:
        echoed = len(self.request.prompt) if self.request.echo else 0
        return EngineRequest(
            id=self.id,
            prompt_ids=self.prompt_ids,
            params=self.request.params,
            generated_ids=tuple(self.ids),
            generated_text=self.text[echoed:],
        )

    def opening(self) -> list[Event]:
        """What the log says when generation begins, without numbers yet."""
        if any((self.ids, self.text)):
            return [Resumed(seq=0, attempt=self.attempt)]
        started = Started(seq=0, prompt_tokens=len(self.prompt_ids))
        echo = [Token(seq=0, ids=(), text=self.request.prompt)] if self.request.echo else []
        return [started, *echo]

    def ending(self, outcome: Outcome) -> AnyEvent:
        """The event that ends the log."""
        seq = self.last_seq + 1
        if outcome.error is not None:
            return Failed(seq=seq, code=outcome.error.code, message=outcome.error.detail)
        if outcome.finish_reason is FinishReason.CANCELLED:
            return Cancelled(seq=seq, usage=self.usage)
        return Done(
            seq=seq,
            finish_reason=outcome.finish_reason,
            usage=self.usage,
            timings=self.timings,
        )

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=len(self.prompt_ids), completion_tokens=len(self.ids))

    @property
    def timings(self) -> Timings:
        end = self.finished_at or job.now()
        first = self.first_token_at or end
        last = self.last_token_at or end
        return Timings(
            queue=max(0.0, self.taken_at - self.request.created_at),
            prefill=first - self.taken_at,
            decode=last - first,
            total=max(0.0, end - self.request.created_at),
        )

    def row(self, outcome: Outcome) -> Interaction:
        timings = self.timings
        status = {FinishReason.ERROR: "failed", FinishReason.CANCELLED: "cancelled"}
        return Interaction(
            id=self.id,
            request_id=self.request.request_id,
            client=self.request.client,
            model=self.request.model,
            prompt=self.request.prompt,
            response=self.text,
            parameters=msgspec.json.encode(self.request.params).decode(),
            status=status.get(outcome.finish_reason, "done"),
            finish_reason=outcome.finish_reason,
            error=outcome.error.code if outcome.error else None,
            attempts=self.attempt,
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.ids),
            queue_seconds=timings.queue,
            prefill_seconds=timings.prefill,
            decode_seconds=timings.decode,
            total_seconds=timings.total,
            created_at=_iso(self.request.created_at),
            finished_at=_iso(self.finished_at or job.now()),
        )


def loading(run: Run) -> Event:
    return Loading(seq=0, model=run.request.model)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
