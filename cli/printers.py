"""A job's events as people and programs want to see them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Final, Self

from cli import console
from cli.following import StreamEvent
from cli.waiting import WaitingLine
from shared.errors import GenerationError


class Printer(ABC):
    """Give it every event, and say when there are no more."""

    def __init__(self) -> None:
        self._waiting = WaitingLine()
        self._last: StreamEvent | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._waiting.clear()

    def show(self, event: StreamEvent) -> None:
        self._waiting.show(event)
        self._last = event
        self._show(event)

    def end(self) -> None:
        """Finish the output.

        Raises:
            GenerationError: the job failed or was cancelled.
        """
        self._end()
        if self._last is not None and self._last.name == "error":
            raise GenerationError(str(self._last.data["message"]))
        if self._last is not None and self._last.name == "cancelled":
            raise GenerationError("The job was cancelled.")

    @abstractmethod
    def _show(self, event: StreamEvent) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...


class TextPrinter(Printer):
    """The response as it comes."""

    def _show(self, event: StreamEvent) -> None:
        console.write(event.text)

    def _end(self) -> None:
        console.write("\n")


class JsonLinesPrinter(Printer):
    """A line for each event."""

    def _show(self, event: StreamEvent) -> None:
        line = {"event": event.name, "id": event.seq or None, "data": event.data}
        console.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _end(self) -> None:
        """Each line was complete."""


class AnswerPrinter(Printer):
    """The response once it is complete, alone or with all that is known of it."""

    _TOLD_AT_THE_END: Final = ("finish_reason", "usage", "timings")

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._answer: dict[str, Any] = {}
        self._texts: list[str] = []

    def _show(self, event: StreamEvent) -> None:
        self._texts.append(event.text)
        if event.name == "queued":
            self._answer = {name: event.data[name] for name in ("id", "model")}
        elif event.name == "done":
            ending = {name: event.data[name] for name in self._TOLD_AT_THE_END}
            self._answer |= {"response": "".join(self._texts), **ending}

    def _end(self) -> None:
        if "response" not in self._answer:
            return
        if self._as_json:
            console.say_json(self._answer)
        else:
            console.write(self._answer["response"] + "\n")
