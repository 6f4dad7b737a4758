"""What a conversation looks like: to a person at a terminal, and to a program that pipes."""

from __future__ import annotations

import sys
from typing import Final

from cli import console
from cli.conversation import Turn
from cli.events import Event
from cli.patience import Pause
from cli.waiting import WaitingLine, description

_PROMPT: Final = "> "
_SHOWN_TURNS: Final = 6


class Screen:
    """Answers go to standard output, everything else to standard error."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._waiting = WaitingLine()
        self._mid_line = False
        self._is_away = False

    def ask(self) -> str | None:
        """The next line; None: there are no more."""
        if not self.is_terminal:
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        import readline  # noqa: F401, PLC0415 - gives `input` its keys and its history

        while True:
            try:
                return input(_PROMPT)
            except EOFError:
                console.write("\n")
                return None
            except KeyboardInterrupt:
                console.write("\n")

    def note(self, text: str) -> None:
        self.end_line()
        console.note(console.printable(text))

    def show(self, event: Event) -> None:
        self._is_away = False
        if description(event) is not None:
            self.end_line()
        self._waiting.show(event)
        self.write(event.text)

    def write(self, text: str) -> None:
        if text:
            console.write(text)
            self._mid_line = not text.endswith("\n")

    def end_line(self) -> None:
        self._waiting.clear()
        if self._mid_line:
            self.write("\n")

    def pause(self, pause: Pause) -> None:
        """The service is away; an answer that was under way goes on when it is back."""
        if self.is_terminal:
            self.end_line()
            self._waiting.say(pause.reason)
        elif not self._is_away:
            console.note(pause.reason)
        self._is_away = True

    def recall(self, turns: list[Turn]) -> None:
        """Show where a conversation was left."""
        if self.is_terminal:
            for turn in turns[-_SHOWN_TURNS:]:
                self.write((_PROMPT if turn.role == "user" else "") + turn.content + "\n")
