"""What counts as sent on the short way."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from api.feed import Feed
from api.shortcut import Make, Shortcut, Written, offer
from shared.events import Token

TOKEN = Token(seq=1, ids=(1,), text="")


class Server:
    def __init__(self, outcome: Written | Exception) -> None:
        self.outcome = outcome

    def write(self, _make: Make, _token: Token) -> Written:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class OpenFeed:
    def shorten(self, passed_on: Callable[[Token], bool]) -> None:
        self.passed_on = passed_on


@pytest.mark.parametrize(
    ("outcome", "passed", "sent"),
    [
        (Written.PIECE, True, 1),
        (Written.NOTHING, True, 0),  # so that a client who is told nothing gets its pings
        (Written.NOT_NOW, False, 0),
        (ValueError(), False, 0),
    ],
)
def test_only_what_is_written_is_a_sign_of_life(
    outcome: Written | Exception,
    passed: bool,  # noqa: FBT001
    sent: int,
) -> None:
    server, feed, notes = Server(outcome), OpenFeed(), list[None]()
    state: dict[str, Any] = {}
    offer(state, server.write)
    shorten = Shortcut(cast("Feed", feed), lambda _: b"").through({"state": state})
    assert shorten is not None
    shorten(lambda: notes.append(None))
    assert feed.passed_on(TOKEN) is passed
    assert len(notes) == sent
