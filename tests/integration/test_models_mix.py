"""Several models and workers without room for all: few swaps, and nobody starves."""

from bench.models import Mix, measure

MIX = Mix(per_second=40, slots=16, load_seconds=0.3, patience=2)


def test_three_models_on_two_workers_with_room_for_two_each() -> None:
    naive, chosen = measure(MIX, "naive"), measure(MIX, "chosen")
    assert (chosen.completed, naive.completed) == (MIX.requests, MIX.requests)
    assert chosen.swaps <= 4
    assert chosen.swaps < naive.swaps / 4
    assert chosen.longest_wait < bound(MIX)


def test_no_model_starves_where_there_are_more_than_places() -> None:
    mix = MIX._replace(models=6, patience=1)
    chosen = measure(mix, "chosen")
    assert chosen.completed == mix.requests
    assert chosen.swaps >= 2  # else there was nothing to see
    assert chosen.longest_wait < bound(mix)


def bound(mix: Mix) -> float:
    """As docs/models.md states it, with a second for jobs that run out and are taken."""
    turns = -(-mix.models // mix.places)
    return turns * (mix.patience + mix.load_seconds + 1)
