"""Tokens that may come next, from what has been said."""

import pytest

from worker.engine.speculation import Lookup, room


@pytest.mark.parametrize(("streams", "tokens"), [(1, 3), (2, 1), (3, 0), (4, 0), (32, 0)])
def test_what_costs_nothing_is_shared_out(streams, tokens) -> None:
    assert room(streams) == tokens


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 2], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 9, 8, 7, 1, 2], [9, 8, 7]),
        ([1, 2, 9, 1, 2], [9, 1, 2]),
        ([5, 5, 5], [5]),  # what is known ends there
        ([1, 2, 9, 1, 2, 8, 1, 2], [8, 1, 2]),  # the last time counts
        ([0, 1, 2, 7, 4, 1, 2, 8, 0, 1, 2], [7, 4, 1]),  # and a longer likeness more
    ],
)
def test_what_followed_last_time(text, draft) -> None:
    assert Lookup().draft(text, 3) == draft
    assert Lookup().draft(text, 1) == draft[:1]
    assert Lookup().draft(text, 0) == []


def test_a_text_that_grows_is_read_on_from_where_it_was() -> None:
    text, lookup = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4] * 3, Lookup()
    for end in range(len(text)):
        assert lookup.draft(text[:end], 3) == Lookup().draft(text[:end], 3)


def test_who_guesses_wrong_pauses_and_tries_again() -> None:
    text, lookup = [1, 2, 3] * 4, Lookup()
    wrong = 0
    while lookup.draft(text, 3):
        lookup.verified(3, 0)
        wrong += 1
    assert 3 < wrong < 30
    paused = 1
    while not lookup.draft(text, 3):
        paused += 1
    assert paused == 32


def test_who_guesses_right_now_and_then_goes_on() -> None:
    text, lookup = [1, 2, 3] * 4, Lookup()
    for turn in range(200):
        assert lookup.draft(text, 3)
        lookup.verified(3, 3 if turn % 4 == 0 else 0)
