"""Quantiles, what many streams come to, and what counts as served well."""

import pytest

from bench.burst import disturbance
from bench.measure import Objective, Stream, goodput, quantile, summarize


def stream(*arrivals, started=0.0, tokens=None, failed=False):
    return Stream(
        started,
        tokens=len(arrivals) if tokens is None else tokens,
        prompt_tokens=10,
        arrivals=list(arrivals),
        failed=failed,
    )


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([7], 0.5, 7),
        ([3, 1, 2], 0.5, 2),
        ([4, 1, 3, 2], 0.5, 2),
        (range(1, 101), 0.99, 99),
        (range(1, 102), 0.99, 100),
        (range(1, 11), 0.9, 9),
        ([1, 2], 0.0, 1),
        ([1, 2], 1.0, 2),
    ],
)
def test_a_quantile_is_a_value_that_was_measured(values, q, expected):
    assert quantile(values, q) == expected


def test_what_streams_that_ran_together_come_to():
    result = summarize([stream(1, 2, 4), stream(3, 4, 5, started=1)])
    assert result.seconds == 5
    assert result.tokens_per_second == pytest.approx(6 / 5)
    assert (result.ttft_p50, result.ttft_p99) == (1, 2)
    assert (result.itl_p50, result.itl_p99) == (1, 2)
    assert (result.e2e_p50, result.e2e_p99) == (4, 4)
    assert (result.streams, result.failed, result.prompt_tokens) == (2, 0, 20)


def test_an_event_of_several_tokens_ends_one_pause_and_its_tokens_share_it():
    result = summarize([stream(1, 2, 3, tokens=5)])
    assert result.itl_p50 == 1
    assert result.seconds_per_token == pytest.approx(0.5)


def test_failed_streams_are_counted_and_bring_no_times():
    result = summarize([stream(1, 2), stream(failed=True), stream(9, failed=True)])
    assert (result.streams, result.failed, result.tokens) == (3, 2, 2)
    assert result.ttft_p99 == 1
    with pytest.raises(ValueError, match="All of 1"):
        summarize([stream(failed=True)])


def test_goodput_counts_requests_that_keep_both_objectives():
    objective = Objective(ttft=1, itl_p99=0.5)
    good = stream(1, 1.5, 2)
    late = stream(1.25, 1.5)
    stuttering = stream(1, 2)
    refused = stream(failed=True)
    short = stream(0.5)
    found = goodput([good, late, stuttering, refused, short], objective)
    assert found.share == pytest.approx(2 / 5)
    assert found.per_second == pytest.approx(2 / 2)
    assert goodput([refused], objective).per_second == 0


def test_a_disturbance_is_what_happens_between_the_arrival_and_the_last_first_token():
    running = [
        stream(1, 2, 3, 4, 7, 9, 20),  # before: 1 1; while they arrive: 1 3 2
        stream(2, 3, 4, 7, 8),  # ends early; before: 1; then: 1 3 1
    ]
    long = [stream(6, 7, started=3.5), stream(9, 10, started=3.5)]
    found = disturbance(running, long)
    assert found.before_p50 == 1
    assert (found.after_p50, found.after_p99) == (1, 3)
    assert found.ratio == 3
    assert found.ended_early == 1
    assert found.long_tokens == 10
