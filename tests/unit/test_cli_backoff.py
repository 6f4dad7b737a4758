"""When a dead child is started again."""

from cli.backoff import EARLY, EARLY_DEATHS, HEALTHY, LONGEST, Backoff


def test_pauses_double_up_to_a_limit() -> None:
    backoff = Backoff()
    pauses = [backoff.died(EARLY) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, LONGEST, LONGEST, LONGEST]


def test_a_healthy_minute_resets_the_pause() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.died(EARLY)
    assert backoff.died(HEALTHY) == 0.5


def test_early_deaths_in_a_row_end_it() -> None:
    backoff = Backoff()
    assert [backoff.died(0) is None for _ in range(EARLY_DEATHS)] == [False] * 4 + [True]


def test_a_longer_life_between_early_deaths_starts_the_count_anew() -> None:
    backoff = Backoff()
    for _ in range(EARLY_DEATHS - 1):
        backoff.died(0)
    backoff.died(EARLY)
    assert backoff.died(0) is not None
