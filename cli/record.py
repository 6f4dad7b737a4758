"""What a job's events so far come to."""

from __future__ import annotations

from cli.events import Answer, Cancelled, Done, Event, Failed, Queued
from shared.errors import GenerationError, MiniVaultError


class JobFailedError(GenerationError):
    """The job failed."""

    code = "job_failed"

    def __init__(self, job_id: str, reason: str, message: str) -> None:
        """`reason` is the service's own code for it, like `prompt_too_long`."""
        super().__init__(message)
        self.job_id = job_id
        self.reason = reason


class JobCancelledError(GenerationError):
    """The job was cancelled."""

    code = "job_cancelled"

    def __init__(self, job_id: str) -> None:
        super().__init__("The job was cancelled.")
        self.job_id = job_id


class Record:
    """Give it every event, in order."""

    def __init__(self) -> None:
        self.job_id = ""
        self._model = ""
        self._texts: list[str] = []
        self._last: Event | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, event: Event) -> None:
        self._texts.append(event.text)
        if isinstance(event, Queued):
            self.job_id, self._model = event.id, event.model
        if event.seq:
            self._last = event

    def answer(self) -> Answer:
        """What they come to when there are no more.

        Raises:
            JobFailedError: the job failed.
            JobCancelledError: it was cancelled.
        """
        match self._last:
            case Done() as done:
                told = {"id": self.job_id, "model": self._model, "response": self.text}
                ending = ("finish_reason", "usage", "timings")
                return Answer(
                    **told,
                    finish_reason=done.finish_reason,
                    usage=done.usage,
                    timings=done.timings,
                    data=told | {name: done.data[name] for name in ending},
                )
            case Failed() as failed:
                raise JobFailedError(self.job_id, failed.code, failed.message)
            case Cancelled():
                raise JobCancelledError(self.job_id)
            case _:
                raise MiniVaultError("The job has not ended.")
