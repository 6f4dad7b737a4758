"""When requests come, and how long they are."""

from itertools import pairwise
from random import Random
from statistics import mean, median, pstdev

import pytest

from bench.prompts import prompts
from bench.workload import poisson, trace, words


def test_poisson_arrivals_come_at_the_rate_and_know_nothing_of_each_other():
    times = poisson(5, 1000, Random(1))
    gaps = [b - a for a, b in pairwise(times)]
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert all(gap > 0 for gap in gaps)
    assert times[-1] < 1000
    assert pstdev(gaps) == pytest.approx(mean(gaps), rel=0.05)  # as of an exponential


def test_the_same_seed_is_the_same_load():
    first, again, other = (poisson(1, 50, Random(seed)) for seed in (3, 3, 4))
    assert first == again != other


def test_lengths_are_those_of_the_trace():
    dice = Random(2)
    asks = trace([0.0] * 4000, dice, scale=1, most_prompt=100_000, most_output=100_000)
    prompt = [len(ask.prompt.split()) for ask in asks]
    output = [ask.max_tokens for ask in asks]
    assert median(prompt) == pytest.approx(1020, rel=0.05)
    assert median(output) == pytest.approx(129, rel=0.1)
    assert mean(output) == pytest.approx(211, rel=0.1)


def test_lengths_are_scaled_and_cut_and_arrivals_kept():
    times = [0.5, 1.5, 2.5] * 100
    asks = trace(times, Random(5), scale=0.1, most_prompt=90, most_output=20)
    assert [ask.at for ask in asks] == times
    assert max(len(ask.prompt.split()) for ask in asks) == 90
    assert {ask.max_tokens for ask in asks} <= set(range(1, 21))


def test_no_two_prompts_begin_alike():
    texts = [*prompts(32), *prompts(32, first=33), *(words(30, Random(n)) for n in range(50))]
    assert len({text[:24] for text in texts}) == len(texts)
