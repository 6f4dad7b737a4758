"""A job's state, folded from its events and from nothing else."""

from __future__ import annotations

from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Queued,
    Timings,
    Usage,
    text_of,
)


class Transcript:
    """What a job's events so far add up to. Begins with its `queued` event."""

    def __init__(self) -> None:
        self.id = ""
        self.model = ""
        self.status = "queued"
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.error: Failed | None = None
        self._texts: list[str] = []

    @property
    def response(self) -> str:
        return "".join(self._texts)

    def add(self, event: AnyEvent) -> None:
        self._texts.append(text_of(event))
        match event:
            case Queued():
                self.id, self.model = event.id, event.model
            case Done():
                self.status = "done"
                self.finish_reason = event.finish_reason
                self.usage, self.timings = event.usage, event.timings
            case Failed():
                self.status = "failed"
                self.finish_reason = FinishReason.ERROR
                self.error = event
            case Cancelled():
                self.status = "cancelled"
                self.finish_reason = FinishReason.CANCELLED
                self.usage = event.usage
            case _:
                self.status = "running"
