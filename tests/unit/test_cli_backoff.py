"""When a dead child is started again."""

from cli.backoff import EARLY, EARLY_DEATHS, HEALTHY, LONGEST, Backoff


def test_pauses_double_up_to_a_limit() -> None:
    backoff = Backoff()
    pauses = [backoff.died(EARLY) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, LONGEST, LONGEST, LONGEST]


def test_after_a_healthy_life_it_is_started_at_once_and_the_pauses_begin_anew() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.died(EARLY)
    assert backoff.died(HEALTHY) == 0
    assert [backoff.died(EARLY), backoff.died(EARLY)] == [0.5, 1]


def test_what_has_worked_is_never_given_up() -> None:
    backoff = Backoff()
    backoff.died(HEALTHY)
    assert None not in [backoff.died(0) for _ in range(4 * EARLY_DEATHS)]


def test_early_deaths_in_a_row_end_it() -> None:
    backoff = Backoff()
    assert [backoff.died(0) is None for _ in range(EARLY_DEATHS)] == [False] * 4 + [True]


def test_a_longer_life_between_early_deaths_starts_the_count_anew() -> None:
    backoff = Backoff()
    for _ in range(EARLY_DEATHS - 1):
        backoff.died(0)
    backoff.died(EARLY)
    assert backoff.died(0) is not None
