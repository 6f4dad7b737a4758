"""What a person sees of a job that waits for its turn."""

from __future__ import annotations

from rich.status import Status

from cli import console
from cli.events import Event, Loading, Queued


class WaitingLine:
    """A line on standard error that goes when the answer comes. Only for a terminal."""

    def __init__(self) -> None:
        self._console = console.stderr()
        self._line: Status | None = None

    def show(self, event: Event) -> None:
        """Say what the event means for the wait."""
        text = description(event)
        self.clear() if text is None else self.say(text)

    def say(self, text: str) -> None:
        if not self._console.is_terminal:
            return
        if self._line is None:
            self._line = self._console.status(text)
            self._line.start()
        else:
            self._line.update(text)

    def clear(self) -> None:
        if self._line is not None:
            self._line.stop()
            self._line = None


def description(event: Event) -> str | None:
    """None: the wait is over."""
    if isinstance(event, Loading):
        return f"Loading {event.model}"
    if not isinstance(event, Queued) or not event.position:
        return None
    text = f"{event.position} in front"
    return text if event.estimate is None else f"{text}, about {max(1, round(event.estimate))} s"
