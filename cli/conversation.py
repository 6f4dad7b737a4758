"""A conversation as it is kept in a file: whoever is killed finds it as it was."""

from __future__ import annotations

import os
import re
import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from cli.events import Cancelled, Done, Event, Failed
from cli.lock import try_lock
from shared.errors import MiniVaultError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ChatError(MiniVaultError):
    """The conversation can't be kept or found."""

    code = "chat_unusable"


class Turn(msgspec.Struct):
    role: str
    content: str


class Underway(msgspec.Struct):
    """An answer that has not ended. It can be asked for again, and followed from here on."""

    key: str
    """Idempotency-Key of its submission, so that one whose answer was lost is not made twice."""
    job_id: str = ""
    """Empty: it is not known whether the service has it."""
    seq: int = 0
    """Of the last event that is in `text`."""
    text: str = ""

    def take(self, event: Event) -> None:
        """An end is not counted: it is told again until the turn is closed."""
        self.text += event.text
        if event.seq and not isinstance(event, Done | Failed | Cancelled):
            self.seq = event.seq


class Conversation(msgspec.Struct):
    fields: dict[str, Any] = msgspec.field(default_factory=dict)
    """Of each request, like `model` and `temperature`."""
    system: str = ""
    turns: list[Turn] = msgspec.field(default_factory=list)
    left_out: int = 0
    """Turns at the beginning that the model is not told any more: they are too many for it."""
    underway: Underway | None = None
    """The answer to the last turn."""

    def ask(self, text: str) -> None:
        self.turns.append(Turn("user", text))
        self.underway = Underway(uuid.uuid4().hex)

    def close(self) -> None:
        """The answer is what has come of it; a question that got none was never asked."""
        text = self.underway.text if self.underway else ""
        if text:
            self.turns.append(Turn("assistant", text))
        else:
            self.turns.pop()
        self.left_out = min(self.left_out, len(self.turns))
        self.underway = None

    def leave_out_more(self) -> bool:
        """Forget the oldest question and its answer; False if only the last question is left."""
        later = [
            number
            for number, turn in enumerate(self.turns)
            if number > self.left_out and turn.role == "user"
        ]
        if later:
            self.left_out = later[0]
            self.underway = Underway(uuid.uuid4().hex)
        return bool(later)

    def messages(self) -> list[dict[str, str]]:
        """As `POST /generate` has them."""
        system = [Turn("system", self.system)] if self.system else []
        told = [*system, *self.turns[self.left_out :]]
        return [{"role": turn.role, "content": turn.content} for turn in told]

    def transcript(self) -> str:
        system = [Turn("system", self.system)] if self.system else []
        return "\n\n".join(f"{turn.role}: {turn.content}" for turn in [*system, *self.turns]) + "\n"


class ChatFile:
    """One conversation's file. Each `save` replaces it as a whole."""

    def __init__(self, path: Path, conversation: Conversation) -> None:
        self.path = path
        self.conversation = conversation

    def save(self) -> None:
        """Raises ChatError if the file can't be written."""
        new = self.path.with_suffix(".new")
        try:
            # Nobody else's business, whatever the umask.
            with os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
            ) as file:
                file.write(msgspec.json.format(msgspec.json.encode(self.conversation)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise ChatError(f"{self.path} can't be written ({error.strerror}).") from error


def folder() -> Path:
    """Where conversations are kept."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "minivault" / "chats"


@contextmanager
def opened(name: str | None, *, goes_on: bool) -> Iterator[ChatFile]:
    """A new conversation, or one that `goes_on`: the named one, or the latest.

    Raises:
        ChatError: there is none, or there is one already, or another `chat` has it open.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ChatError(f"{name!r} is no name: use up to 64 letters, digits, '.', '_' and '-'.")
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ChatError(f"{folder()} can't be made ({error.strerror}).") from error
    path = folder() / f"{name or (_latest() if goes_on else _new_name())}.json"
    if path.exists() and not goes_on:
        raise ChatError(f"There is a conversation {name}. Go on with --continue, or rename this.")
    with path.with_suffix(".lock").open("a", encoding="ascii") as lock:
        if not try_lock(lock):
            raise ChatError(f"Another `minivault chat` has {path.stem} open.")
        yield ChatFile(path, _read(path) if goes_on else Conversation())


def _latest() -> str:
    found = sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ChatError("There is no conversation to go on with.")
    return found[-1].stem


def _new_name() -> str:
    return f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(2)}"


def _read(path: Path) -> Conversation:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Conversation)
    except FileNotFoundError:
        raise ChatError(f"There is no conversation {path.stem}.") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ChatError(f"{path} can't be read: {error}") from error
