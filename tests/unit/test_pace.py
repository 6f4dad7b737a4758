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


def sequence(prompt: int, generated: int = 0) -> Sequence:
    params = SamplingParams(max_tokens=1000, temperature=0, seed=0)
    asked = EngineRequest(
        id="x",
        prompt_ids=(5,) * prompt,
        params=params,
        generated_ids=tuple(range(3, 3 + generated)),
    )
    return Sequence(asked, decoder=NoText(), eos_ids=(), context=10_000)


def stream(generated: int) -> Sequence:
    return sequence(1, generated)


OLD: Final = [stream(8)]
LONG: Final = [sequence(500)]


def took_of(base: float, token: float, tokens: int) -> float:
    return base + token * tokens


def taught(passes: Iterable[tuple[int, int, float]]) -> Pace:
    """One that has seen passes of decoding streams and so many tokens of a prompt, in seconds."""
    pace = Pace(MOST)
    for decoding, prefilled, took in passes:
        prompt = [Chunk(stream(0), prefilled)] if prefilled else []
        pace.note([*prompt, *(Chunk(OLD[0], 1) for _ in range(decoding))], took)
    return pace


def knowing(base: float, token: float) -> Pace:
    """One that has seen enough of them."""
    both = [(1, 0, took_of(base, token, 1)), (1, 20, took_of(base, token, 21))]
    return taught(both * 30)


def test_where_rows_are_padded_only_who_waits_counts() -> None:
    pace = knowing(0.010, 0.0005)
    assert pace.budget(OLD, LONG, ragged=False, at_once=1024) == MOST
    assert pace.budget([stream(0)], LONG, ragged=False, at_once=1024) == MOST
    assert pace.budget([], LONG, ragged=False, at_once=1024) == 1024


@pytest.mark.parametrize("decoding", [[], [stream(0)], [stream(7), stream(1)]])
def test_nobody_notices_a_long_pass_before_a_stream_has_found_its_pace(decoding) -> None:
    assert knowing(0.010, 0.0005).budget(decoding, LONG, ragged=True, at_once=256) == 256


def test_one_stream_with_a_pace_is_enough() -> None:
    assert taught([]).budget([stream(0), *OLD], LONG, ragged=True, at_once=256) == 4


@pytest.mark.parametrize(
    "passes", [[], [(1, 0, 0.5)], [(1, 50, 0.060)], [(1, 50, 0.060), (1, 0, 0.5)]]
)
def test_little_until_both_costs_are_known(passes) -> None:
    """What a prompt's tokens add can only be told from what decoding takes."""
    assert taught(passes).budget(OLD, LONG, ragged=True, at_once=256) == 4


@pytest.mark.parametrize(
    ("base", "token", "budget"),
    [
        (0.020, 0.0005, 10),  # a pass takes a quarter longer than one without
        (0.010, 0.0100, 4),  # never less than that
        (0.100, 0.0001, MOST),
    ],
)
def test_a_pass_that_prefills_takes_so_much_longer(base, token, budget) -> None:
    pace = knowing(base, token)
    assert pace.budget(OLD, LONG, ragged=True, at_once=256) == pytest.approx(budget, abs=1)


def test_those_that_decode_make_a_pass_longer_also_where_none_has_only_decoded_since() -> None:
    """As many begin, one after the other, there is always one that prefills."""
    base, token = 0.005, 0.0005
    few = [(1, 0, took_of(base, token, 1))]
    many = [(64, 20, took_of(base, token, 84))] * 30
    budget = taught(few + many).budget(OLD * 64, LONG, ragged=True, at_once=256)
    assert budget == pytest.approx(0.25 * took_of(base, token, 64) / token, abs=2)


def test_a_prompt_s_last_single_token_counts_as_decoding() -> None:
    pace = taught([(1, 0, 0.0205), (1, 1, 0.021), (1, 20, 0.0305)] * 30)
    assert pace.budget(OLD, LONG, ragged=True, at_once=256) == pytest.approx(10, abs=1)


def test_drafts_are_tokens_of_a_pass() -> None:
    pace = Pace(MOST)
    for _ in range(30):
        pace.note([Chunk(OLD[0], 1, (7,) * 9)], took_of(0.020, 0.0005, 10))
        pace.note([Chunk(stream(0), 20), Chunk(OLD[0], 1)], took_of(0.020, 0.0005, 21))
    assert pace.budget(OLD, LONG, ragged=True, at_once=256) == pytest.approx(10, abs=1)


def test_one_slow_pass_changes_little_and_many_change_all() -> None:
    steady = [(1, 0, 0.050), (1, 20, 0.060)] * 30
    usual = taught(steady).budget(OLD, LONG, ragged=True, at_once=256)
    disturbed = taught([*steady, (1, 0, 0.100)]).budget(OLD, LONG, ragged=True, at_once=256)
    assert usual < disturbed <= 1.2 * usual
    slower = taught([*steady, *[(1, 0, 0.150)] * 30])
    assert slower.budget(OLD, LONG, ragged=True, at_once=256) == pytest.approx(3 * usual, rel=0.05)


def test_a_pass_quicker_than_decoding_alone_is_taken_for_free_not_for_less() -> None:
    steady = [(1, 0, 0.0205), (1, 20, 0.0305)] * 30
    pace = taught([*steady, (1, 20, 0.001)])
    assert 10 < pace.budget(OLD, LONG, ragged=True, at_once=256) < MOST


def test_the_more_wait_for_each_that_runs_the_longer_a_pass_may_take() -> None:
    pace = knowing(0.020, 0.0005)
    budgets = [
        pace.budget(OLD * 4, LONG * waiting, ragged=True, at_once=256) for waiting in (1, 8, 16, 32)
    ]
    assert budgets == pytest.approx([11, 11, 22, 44], abs=1)
    assert pace.budget(OLD, LONG * 1000, ragged=True, at_once=256) == MOST


def test_short_prompts_are_worth_a_longer_pass() -> None:
    pace = knowing(0.020, 0.0005)
    budgets = [
        pace.budget(OLD, [sequence(left)], ragged=True, at_once=256) for left in (400, 200, 100, 9)
    ]
    assert budgets == pytest.approx([10, 10, 20, 41], abs=1)
    mixed = [sequence(20), sequence(180)]
    assert pace.budget(OLD, mixed, ragged=True, at_once=256) == pytest.approx(20, abs=1)
