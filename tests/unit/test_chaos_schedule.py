"""Faults and requests of `make chaos` are drawn from the seed alone."""

import pytest

from tests.chaos.prompts import digest, requests
from tests.chaos.schedule import Kind, Phase, outages, plan


def test_a_seed_decides_everything() -> None:
    assert plan(streams=500, faults=60, seed=3) == plan(streams=500, faults=60, seed=3)
    assert plan(streams=500, faults=60, seed=3) != plan(streams=500, faults=60, seed=4)
    assert digest(requests(50, 3)) == digest(requests(50, 3)) != digest(requests(50, 4))


@pytest.mark.parametrize(("streams", "faults"), [(500, 60), (90, 18), (10, 2)])
def test_a_plan_has_what_was_asked_for(streams: int, faults: int) -> None:
    legs = plan(streams=streams, faults=faults, seed=1)
    assert [stream for leg in legs for stream in leg.streams] == list(range(streams))
    assert [fault.number for leg in legs for fault in leg.faults] == list(range(faults))
    assert [leg.phase for leg in legs] == [Phase.EMBEDDED, Phase.EXTERNAL]


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_comes_even_in_a_short_run(seed: int) -> None:
    kinds = {fault.kind for leg in plan(streams=50, faults=22, seed=seed) for fault in leg.faults}
    assert kinds == set(Kind)


@pytest.mark.parametrize("seed", range(20))
def test_a_leg_begins_alone_and_the_proxy_is_asked_only_where_it_is(seed: int) -> None:
    embedded, external = plan(streams=50, faults=60, seed=seed)
    assert not embedded.faults[0].overlaps
    assert not external.faults[0].overlaps
    proxied = {Kind.REDIS_CUT, Kind.REDIS_STALL}
    assert not proxied & {fault.kind for fault in embedded.faults}
    assert proxied <= {fault.kind for fault in external.faults}


def test_half_of_the_requests_are_greedy_and_the_rest_have_seeds() -> None:
    asked = requests(500, 1)
    sampled = [request for request in asked if not request.greedy]
    assert len(sampled) == 250
    assert all("seed" in request.body for request in sampled)
    assert len({request.body["prompt"] for request in asked}) == 500
    assert {200 <= request.body["max_tokens"] <= 800 for request in asked} == {True}


def test_outages_come_one_at_a_time_each_with_streams_of_its_own() -> None:
    legs = outages(streams=16, seconds=20, seed=1)
    assert [stream for leg in legs for stream in leg.streams] == list(range(64))
    faults = [fault for leg in legs for fault in leg.faults]
    assert len(faults) == len({fault.kind for fault in faults}) == len(legs)
    assert {(fault.seconds, fault.overlaps) for fault in faults} == {(20, False)}
