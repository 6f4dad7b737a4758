"""How much of the prompts is prefilled beside streams that run."""

from collections.abc import Iterable
from typing import Final

import pytest

from shared.job import SamplingParams
from tests.support.models import NoText
from worker.engine.base import EngineRequest
from worker.engine.chunk import Chunk
from worker.engine.pace import Pace
from worker.engine.sequence import Sequence

MOST: Final = 128


def stream(generated: int) -> Sequence:
    params = SamplingParams(max_tokens=1000, temperature=0, seed=0)
    asked = EngineRequest(
        id="x", prompt_ids=(5,), params=params, generated_ids=tuple(range(3, 3 + generated))
    )
    return Sequence(asked, decoder=NoText(), eos_ids=(), context=10_000)


OLD: Final = [stream(8)]


def taught(passes: Iterable[tuple[int, float]]) -> Pace:
    """One that has seen passes of a decoding stream and so many tokens of a prompt, in seconds."""
    pace = Pace(MOST)
    for prefilled, seconds in passes:
        prompt = [Chunk(stream(0), prefilled)] if prefilled else []
        pace.note([*prompt, Chunk(OLD[0], 1)], seconds)
    return pace


def test_where_rows_are_padded_only_who_waits_counts() -> None:
    pace = taught([(0, 0.010), (10, 0.020)])
    assert pace.budget(OLD, 1, ragged=False, at_once=1024) == MOST
    assert pace.budget([stream(0)], 1, ragged=False, at_once=1024) == MOST
    assert pace.budget([], 1, ragged=False, at_once=1024) == 1024


@pytest.mark.parametrize("decoding", [[], [stream(0)], [stream(7), stream(1)]])
def test_nobody_notices_a_long_pass_before_a_stream_has_found_its_pace(decoding) -> None:
    assert taught([(0, 0.010), (10, 0.020)]).budget(decoding, 1, ragged=True, at_once=256) == 256


def test_one_stream_with_a_pace_is_enough() -> None:
    assert taught([]).budget([stream(0), *OLD], 1, ragged=True, at_once=256) == 4


@pytest.mark.parametrize("passes", [[], [(0, 0.010)], [(50, 0.060)], [(50, 0.060), (0, 0.010)]])
def test_little_until_both_costs_are_known(passes) -> None:
    """What a prompt's tokens add can only be told from what decoding takes."""
    assert taught(passes).budget(OLD, 1, ragged=True, at_once=256) == 4


@pytest.mark.parametrize(
    ("decode", "token", "budget"),
    [
        (0.010, 0.0005, 8),  # a pass takes two fifths longer than one without
        (0.010, 0.0100, 4),  # never less than that
        (0.040, 0.0001, MOST),
    ],
)
def test_a_pass_that_prefills_takes_so_much_longer(decode, token, budget) -> None:
    pace = taught([(0, decode), (20, decode + 20 * token)])
    assert pace.budget(OLD, 1, ragged=True, at_once=256) == pytest.approx(budget, abs=1)


def test_a_prompt_s_last_single_token_counts_as_decoding() -> None:
    pace = taught([(0, 0.010), (1, 0.010), (20, 0.020)])
    assert pace.budget(OLD, 1, ragged=True, at_once=256) == pytest.approx(8, abs=1)


def test_one_slow_pass_changes_little_and_many_change_all() -> None:
    steady = [(0, 0.010), (20, 0.020)] * 20
    usual = taught(steady).budget(OLD, 1, ragged=True, at_once=256)
    disturbed = taught([*steady, (0, 0.020)]).budget(OLD, 1, ragged=True, at_once=256)
    assert usual < disturbed < 1.2 * usual
    assert taught([*steady, *[(0, 0.030)] * 30]).budget(
        OLD, 1, ragged=True, at_once=256
    ) == pytest.approx(3 * usual, rel=0.05)


def test_a_pass_quicker_than_decoding_alone_is_taken_for_free_not_for_less() -> None:
    pace = taught([(0, 0.010), (20, 0.020), (20, 0.001)])
    assert 8 < pace.budget(OLD, 1, ragged=True, at_once=256) < MOST


def test_the_more_wait_for_each_that_runs_the_longer_a_pass_may_take() -> None:
    pace = taught([(0, 0.010), (20, 0.020)])
    budgets = [
        pace.budget(OLD * 4, waiting, ragged=True, at_once=256) for waiting in (1, 8, 16, 32)
    ]
    assert budgets == pytest.approx([8, 8, 16, 32], abs=1)
    assert pace.budget(OLD, 1000, ragged=True, at_once=256) == MOST
