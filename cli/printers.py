"""A job's events as people and programs want to see them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from cli import console
from cli.events import Event
from cli.record import Record
from cli.waiting import WaitingLine


class Printer(ABC):
    """Give it every event, and say when there are no more."""

    def __init__(self) -> None:
        self._waiting = WaitingLine()
        self._record = Record()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._waiting.clear()

    def show(self, event: Event) -> None:
        self._waiting.show(event)
        self._record.add(event)
        self._show(event)

    def end(self) -> None:
        """Finish the output.

        Raises:
            JobFailedError: the job failed.
            JobCancelledError: it was cancelled.
        """
        self._end()
        self._record.answer()

    @abstractmethod
    def _show(self, event: Event) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...


class TextPrinter(Printer):
    """The response as it comes."""

    def _show(self, event: Event) -> None:
        console.write(event.text)

    def _end(self) -> None:
        console.write("\n")


class JsonLinesPrinter(Printer):
    """A line for each event."""

    def _show(self, event: Event) -> None:
        line = {"event": event.name, "id": event.seq or None, "data": event.data}
        console.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _end(self) -> None:
        """Each line was complete."""


class AnswerPrinter(Printer):
    """The response once it is complete, alone or with all that is known of it."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def _show(self, event: Event) -> None:
        """Not yet."""

    def _end(self) -> None:
        answer = self._record.answer()
        if self._as_json:
            console.say_json(answer.data)
        else:
            console.write(answer.response + "\n")
