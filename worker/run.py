"""One job on its way through a worker, from its claim to the end of its log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from structlog.stdlib import BoundLogger

from shared import job
from shared.claim import SUSPECTED, Claim
from shared.errors import GenerationError, MiniVaultError
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Event,
    Failed,
    FinishReason,
    Loading,
    Queued,
    Resumed,
    Started,
    Timings,
    Token,
    Usage,
)
from shared.job import GenerationRequest
from shared.logging import job_logger
from worker.engine.base import EngineRequest


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a finish reason, and the error if that is why."""

    finish_reason: FinishReason
    error: MiniVaultError | None = None


@dataclass(eq=False)
class Run:
    """One attempt at a job. Made by intake, advanced by the loop, published, finished.

    `last_seq`, `ids` and `text` tell what the log holds; the publisher keeps them so.
    """

    claim: Claim
    request: GenerationRequest
    last_seq: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    starts: int = 0
    """How often generation has begun, this attempt included once it has."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    ended: Done | Failed | Cancelled | None = None
    """The terminal event, once it is in the log."""
    prompt_ids: tuple[int, ...] = ()
    taken_at: float = field(default_factory=job.now)
    first_token_at: float | None = None
    last_token_at: float | None = None
    resumes: bool = False
    """It goes on behind tokens of an earlier attempt. Known from `opening` on."""
    in_slot: bool = False
    """It was taken in order to be generated, and not only to be ended."""
    inherited: int = 0
    """Tokens of earlier attempts that it goes on behind."""
    prefill_told: bool = False
    """Traces have its prefill."""
    fenced: bool = False
    """The job is somebody else's now; nothing of this run counts any more."""

    @classmethod
    def from_log(cls, claim: Claim, request: GenerationRequest, log: Sequence[AnyEvent]) -> Run:
        """Where an earlier attempt left off, or the beginning."""
        run = cls(claim, request)
        for event in log:
            run.note(event)
        run.inherited = len(run.ids)
        return run

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def key(self) -> str:
        """Names the attempt: a worker may lose a job and take it again before it has noticed."""
        return self.claim.owner

    @property
    def logger(self) -> BoundLogger:
        return job_logger(self.request)

    @property
    def suspect(self) -> bool:
        """Workers died with it, and it may be why."""
        return self.claim.strikes >= SUSPECTED

    @property
    def opened(self) -> bool:
        """The log has what this attempt began with, so that its worker's death proves nothing."""
        return len(self.ids) > self.inherited or self.ended is not None or self.fenced

    def note(self, event: AnyEvent) -> None:
        """The log has accepted `event`."""
        self.last_seq = event.seq
        match event:
            case Token():  # of most events
                self.ids.extend(event.ids)
                self.text += event.text
            case Started():
                self.starts += 1
                self.prompt_tokens = event.prompt_tokens
            case Resumed():
                self.starts += 1
            case Done() | Failed() | Cancelled():
                self.ended = event
            case Queued():
                self.ended = None  # a failed job that was put back

    def encoded(self, prompt_ids: tuple[int, ...]) -> None:
        """The prompt as the model sees it."""
        self.prompt_ids = prompt_ids
        self.prompt_tokens = len(prompt_ids)

    def tick(self, moment: float) -> None:
        """A token was generated then."""
        self.last_token_at = moment
        self.first_token_at = self.first_token_at or moment

    def for_engine(self) -> EngineRequest:
        echoed = len(self.request.prompt_text) if self.request.echo else 0
        return EngineRequest(
            id=self.key,
            prompt_ids=self.prompt_ids,
            params=self.request.params,
            generated_ids=tuple(self.ids),
            generated_text=self.text[echoed:],
            salt=self.request.key,
        )

    def opening(self) -> list[Event]:
        """What the log says when generation begins, without numbers yet."""
        self.resumes = any((self.ids, self.text))
        if self.resumes:
            return [Resumed(seq=0, attempt=self.starts + 1)]
        started = Started(seq=0, prompt_tokens=self.prompt_tokens)
        echo = [Token(seq=0, ids=(), text=self.request.prompt_text)] if self.request.echo else []
        return [started, *echo]

    def ending(self, outcome: Outcome) -> Done | Failed | Cancelled:
        """The event that ends the log; the one that has ended it, if there is one."""
        if self.ended is not None:
            return self.ended
        seq, usage, timings = self.last_seq + 1, self._usage, self._timings
        if outcome.error is not None:
            error = outcome.error
            return Failed(
                seq=seq, code=error.code, message=error.detail, usage=usage, timings=timings
            )
        if outcome.finish_reason is FinishReason.CANCELLED:
            return Cancelled(seq=seq, usage=usage, timings=timings)
        return Done(seq=seq, finish_reason=outcome.finish_reason, usage=usage, timings=timings)

    @property
    def seconds(self) -> float:
        """In a slot, so far."""
        return job.now() - self.taken_at

    @property
    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.ids),
            cached_tokens=self.cached_tokens,
        )

    @property
    def _timings(self) -> Timings:
        end = job.now()
        first = self.first_token_at or end
        last = self.last_token_at or end
        return Timings(
            queue=max(0.0, self.taken_at - self.request.created_at),
            prefill=first - self.taken_at,
            decode=last - first,
            total=max(0.0, end - self.request.created_at),
        )


def outcome_of(end: Done | Failed | Cancelled) -> Outcome:
    """What a terminal event says."""
    match end:
        case Done():
            return Outcome(end.finish_reason)
        case Failed():
            return Outcome(FinishReason.ERROR, GenerationError(end.message))
        case _:
            return Outcome(FinishReason.CANCELLED)


def loading(run: Run) -> Event:
    return Loading(seq=0, model=run.request.model)
