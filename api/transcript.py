"""A job's state, folded from its events and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from api.views import TokenLogprobsView
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Queued,
    Timings,
    Token,
    TokenLogprobs,
    Usage,
    text_of,
)


class Transcript:
    """What a job's events so far add up to. Begins with its `queued` event."""

    def __init__(self, events: Iterable[AnyEvent] = ()) -> None:
        self.id = ""
        self.model = ""
        self.status = "queued"
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.error: Failed | None = None
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        for event in events:
            self.add(event)

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    @property
    def response(self) -> str:
        return "".join(self._texts)

    @property
    def logprobs(self) -> list[TokenLogprobsView] | None:
        """One for each token; None where nobody asked for them, or there is no token yet."""
        return [TokenLogprobsView.of_token(each) for each in self._logprobs] or None

    def add(self, event: AnyEvent) -> None:
        self._texts.append(text_of(event))
        match event:
            case Token():
                self._logprobs += event.logprobs
                self.status = "running"
            case Queued():  # also behind a failure, when the job is put back
                self.id, self.model = event.id, event.model
                self.status = "queued"
                self.finish_reason = self.error = self.usage = self.timings = None
            case Done():
                self._end("done", event.finish_reason, event)
            case Failed():
                self._end("failed", FinishReason.ERROR, event)
                self.error = event
            case Cancelled():
                self._end("cancelled", FinishReason.CANCELLED, event)
            case _:
                self.status = "running"

    def _end(self, status: str, reason: FinishReason, event: Done | Failed | Cancelled) -> None:
        self.status, self.finish_reason = status, reason
        self.usage, self.timings = event.usage, event.timings
