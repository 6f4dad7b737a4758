"""What the service says of a job and of a model, as types.

Everything keeps in `data` what was really said, so that a newer service's additions are not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from cli.transport import RequestRefusedError
from shared.events import Timings, Usage

Data = Mapping[str, Any]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened to a job. One of no kind below comes from a newer service."""

    name: str
    """As the service has it: `queued`, `token`, `error`..."""
    seq: int
    """Its number in the job's log; 0: a remark beside the log, like a new place in the queue."""
    text: str = ""
    """What it adds to the response, which is all texts in order."""
    data: Data = msgspec.field(default_factory=dict)


class Queued(Event, frozen=True, kw_only=True):
    """Accepted, put back, or moved up: `position` jobs of the model wait in front."""

    id: str
    model: str
    position: int
    estimate: float | None = None
    """Seconds that the wait may take, where that is known."""
    request_id: str = ""


class Loading(Event, frozen=True, kw_only=True):
    """A worker loads the model first."""

    model: str


class Started(Event, frozen=True, kw_only=True):
    prompt_tokens: int


class Token(Event, frozen=True, kw_only=True):
    """Text was generated: of one token, of several, or of none that is complete."""


class Resumed(Event, frozen=True, kw_only=True):
    """Another worker goes on where one broke off."""

    attempt: int


class Done(Event, frozen=True, kw_only=True):
    finish_reason: str
    usage: Usage
    timings: Timings


class Failed(Event, frozen=True, kw_only=True):
    """An operator may put the job back, so this is the end only if nothing follows."""

    code: str
    message: str


class Cancelled(Event, frozen=True, kw_only=True):
    usage: Usage
    timings: Timings


_KINDS: Final[Mapping[str, type[Event]]] = {
    "queued": Queued,
    "loading": Loading,
    "started": Started,
    "token": Token,
    "resumed": Resumed,
    "done": Done,
    "error": Failed,
    "cancelled": Cancelled,
}


class Problem(msgspec.Struct, frozen=True):
    """Why a job failed."""

    code: str
    message: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is done."""

    id: str
    model: str
    response: str
    finish_reason: str
    usage: Usage
    timings: Timings
    data: Data = msgspec.field(default_factory=dict)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is now."""

    id: str
    model: str
    status: str
    """queued, running, done, failed or cancelled."""
    response: str
    """So far."""
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Problem | None = None
    data: Data = msgspec.field(default_factory=dict)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    default: bool
    served: bool
    """Requests may name it."""
    loaded: bool
    data: Data = msgspec.field(default_factory=dict)


class NotMiniVaultError(RequestRefusedError):
    """What answers there is not MiniVault."""

    def __init__(self, url: str) -> None:
        super().__init__(f"What answers at {url} is not MiniVault.")


T = TypeVar("T")


def typed(kind: type[T], data: Any, url: str, **more: Any) -> T:
    """What a service at `url` said, as a `kind`; `more` are fields that it did not say.

    Raises:
        NotMiniVaultError: it is none.
    """
    if not isinstance(data, dict):
        raise NotMiniVaultError(url)
    try:
        return msgspec.convert({**data, **more, "data": data}, kind)
    except msgspec.ValidationError as error:
        raise NotMiniVaultError(url) from error


def event(name: str, seq: int, text: str, url: str) -> Event:
    """Of a server-sent event's parts; `text` is its data.

    Raises:
        NotMiniVaultError: it is none of ours.
    """
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise NotMiniVaultError(url) from error
    return typed(_KINDS.get(name, Event), data, url, name=name, seq=seq)
