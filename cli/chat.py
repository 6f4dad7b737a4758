"""A conversation, turn by turn. Whatever is killed, it goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cli.client import (
    Client,
    Event,
    Failed,
    JobFailedError,
    RequestRefusedError,
    ServiceUnavailableError,
)
from cli.conversation import ChatFile, Underway
from cli.screen import Screen
from shared.errors import MiniVaultError

_SAVE_SECONDS: Final = 0.25
"""How much of an answer is at most asked for again after a crash."""

HELP: Final = """\
/help           this
/quit           leave; Ctrl-D does too
/reset          forget what was said, keep the system prompt
/system [TEXT]  set the system prompt, or remove it
/model NAME     let another model answer
/save FILE      write what was said to a file
//TEXT          say something that begins with a slash
Ctrl-C ends the answer that is being given. `minivault chat --continue` comes back here."""


class Chat:
    """`file` is saved before anything is asked, and again and again while the answer comes."""

    def __init__(self, client: Client, file: ChatFile, screen: Screen) -> None:
        self._client = client
        self._file = file
        self._screen = screen
        self._conversation = file.conversation
        self._saved_at = 0.0
        self._commands: Mapping[str, Callable[[str], None]] = {
            "help": lambda _: screen.note(HELP),
            "model": self._model,
            "reset": self._reset,
            "save": self._write,
            "system": self._system,
        }

    def catch_up(self) -> None:
        """Follow the answer that was under way when the last one who followed it ended."""
        self._screen.recall(self._conversation.turns)
        if self._conversation.underway is not None:
            self._screen.write(self._conversation.underway.text)
            self._turn()

    def run(self) -> None:
        """Until the person leaves, or the lines end.

        Raises:
            MiniVaultError: an answer failed; not at a terminal, where it is told and goes on.
        """
        while (line := self._screen.ask()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            if text.startswith("/") and not text.startswith("//"):
                self._command(text)
            elif text and self._is_text(text):
                self._conversation.ask(text.removeprefix("/") if text.startswith("//") else text)
                self._file.save()
                self._turn()

    def _turn(self) -> None:
        try:
            while not self._answered():
                pass
        except ServiceUnavailableError:
            self._file.save()  # the question stays asked
            raise
        except MiniVaultError as error:
            self._close()
            if not self._screen.is_terminal:
                raise
            self._screen.note(str(error))
        except KeyboardInterrupt:
            self._cancel()
            self._close()
            if not self._screen.is_terminal:
                raise
            self._screen.note("(stopped)")

    def _answered(self) -> bool:
        """False: the model was told too much, and is to be asked again with less.

        Raises:
            MiniVaultError: there is no answer, or no more of it.
        """
        underway = self._conversation.underway
        assert underway is not None
        if not underway.job_id:
            fields = self._conversation.fields
            messages = self._conversation.messages()
            job = self._client.submit(messages=messages, idempotency_key=underway.key, **fields)
            underway.job_id = job.id
            self._file.save()
        last = self._follow(underway)
        if isinstance(last, Failed):
            if last.code == "prompt_too_long" and self._conversation.leave_out_more():
                self._screen.note("(The conversation is long: its beginning is left out.)")
                self._file.save()
                return False
            raise JobFailedError(underway.job_id, last.code, last.message)
        self._close()
        return True

    def _follow(self, underway: Underway) -> Event | None:
        last = None
        try:
            with self._client.events(underway.job_id, after=underway.seq) as stream:
                for event in stream:
                    self._screen.show(event)
                    underway.take(event)
                    last = event if event.seq else last
                    self._save_now_and_then()
        except RequestRefusedError as error:
            if error.reason not in ("job_expired", "job_not_found"):
                raise
            self._screen.note("(The rest of this answer is not there any more.)")
        return last

    def _close(self) -> None:
        self._screen.end_line()
        self._conversation.close()
        self._file.save()

    def _cancel(self) -> None:
        underway = self._conversation.underway
        if underway is not None and underway.job_id:
            with suppress(MiniVaultError):  # then it goes on to its end, for nobody
                self._client.cancel(underway.job_id)

    def _save_now_and_then(self) -> None:
        if time.monotonic() > self._saved_at + _SAVE_SECONDS:
            self._file.save()
            self._saved_at = time.monotonic()

    def _is_text(self, line: str) -> bool:
        try:
            line.encode()
        except UnicodeEncodeError:  # bytes of another encoding, as Python hands them on
            self._screen.note("That is no valid UTF-8.")
            return False
        return True

    def _command(self, line: str) -> None:
        name, _, argument = line.removeprefix("/").partition(" ")
        command = self._commands.get(name)
        if command is None:
            self._screen.note(f"There is no /{name}. /help lists what there is.")
        elif self._is_text(argument):
            command(argument.strip())

    def _reset(self, _: str) -> None:
        self._conversation.turns.clear()
        self._conversation.left_out = 0
        self._file.save()
        self._screen.note("(forgotten)")

    def _system(self, text: str) -> None:
        self._conversation.system = text
        self._file.save()
        self._screen.note("(system prompt set)" if text else "(no system prompt)")

    def _model(self, name: str) -> None:
        if not name:
            self._screen.note("Which? `minivault models list` has the names.")
            return
        self._conversation.fields["model"] = name
        self._file.save()
        self._screen.note(f"(model: {name})")

    def _write(self, name: str) -> None:
        try:
            Path(name).expanduser().write_text(self._conversation.transcript(), encoding="utf-8")
        except (OSError, ValueError, RuntimeError) as error:
            self._screen.note(f"{name!r} can't be written: {error}")
        else:
            self._screen.note(f"(written to {name})")
