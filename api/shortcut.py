"""The short way of a token: from Redis' message to its client's socket in one call."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, TypeAlias
from weakref import WeakMethod

from starlette.types import Scope

from api.feed import Feed
from shared.events import Token

Make: TypeAlias = Callable[[Token], bytes]
"""A token as a piece of its stream; empty where it tells the client nothing."""


class Written(Enum):
    """What has become of a token."""

    NOT_NOW = auto()
    """Nothing was made of it."""
    NOTHING = auto()
    """It tells the client nothing."""
    PIECE = auto()


Write: TypeAlias = Callable[[Make, Token], Written]
"""Send a piece of the body that is under way."""
Shorten: TypeAlias = Callable[[Callable[[], None]], None]
"""Open the short way. What it gets is called for each piece that takes it."""
_WRITE: Final = "write"


def offer(state: dict[str, Any], write: Write) -> None:
    """Have the response to a request use `write`, a bound method whose object is not kept."""
    state[_WRITE] = WeakMethod(write)


class Shortcut:
    """A stream's, for what it waits for: the next token, while nothing else is to be sent.

    A task that is woken for a token, to send it through all of a response's layers, takes three
    times as long. Whatever is not the next token goes that way, and so does what comes while a
    client's socket takes nothing.
    """

    __slots__ = ("_feed", "_make")

    def __init__(self, feed: Feed, make: Make) -> None:
        self._feed = feed
        self._make = make

    def through(self, scope: Scope) -> Shorten | None:
        """None where the server offers none."""
        offered = scope["state"].get(_WRITE)
        write: Write | None = offered() if offered else None
        if write is None:
            return None
        feed, make = self._feed, self._make

        def shorten(sent: Callable[[], None]) -> None:
            def passed_on(token: Token) -> bool:
                try:
                    written = write(make, token)
                except Exception:  # noqa: BLE001 (happens again where the stream's task meets it)
                    return False
                if written is Written.PIECE:
                    sent()
                return written is not Written.NOT_NOW

            feed.shorten(passed_on)

        return shorten
