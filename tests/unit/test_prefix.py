"""The prefix cache on slots that are filled by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.engine.blocks import BLOCK
from worker.engine.prefix import PrefixCache

ROWS, COLUMNS = 3, 8 * BLOCK
BLOCK_BYTES = 4 * BLOCK * (2 * 5 + 2 * 1 * 3)
TEXTS = st.lists(st.integers(1, 3), max_size=6).flatmap(
    lambda blocks: st.integers(0, BLOCK - 1).map(
        lambda rest: [token for block in blocks for token in [block] * BLOCK] + [9] * rest
    )
)
CALLS = st.lists(
    st.tuples(st.sampled_from("ab"), TEXTS, st.integers(0, ROWS - 1), st.integers(0, 40)),
    min_size=1,
    max_size=25,
)


def slots() -> list[Tensor]:
    """Two pieces, of different shapes."""
    return [torch.zeros(1, ROWS, 2, COLUMNS, 5), torch.zeros(2, ROWS, 1, COLUMNS, 3)]


def truth(salt: str, tokens: list[int], like: Tensor) -> Tensor:
    """Keys that depend on all that stands before, [layers, heads, tokens, size]."""
    values = [hash((salt, *tokens[: end + 1])) % 10_007 for end in range(len(tokens))]
    at = torch.tensor(values, dtype=torch.float32)[None, :, None]
    keys = at + torch.arange(like.shape[2])[:, None, None] + torch.arange(like.shape[4]) / 8
    return keys + torch.arange(like.shape[0])[:, None, None, None] * 20_000


@settings(deadline=None)
@given(st.integers(0, 8), CALLS)
def test_what_comes_back_is_what_computing_would_have_given(capacity: int, calls: list) -> None:
    layers = slots()
    cache = PrefixCache(layers, capacity * BLOCK_BYTES)
    assert cache.bytes == capacity * BLOCK_BYTES
    for salt, tokens, row, wanted in calls:
        there = min(wanted, len(tokens))
        for layer in layers:  # a new request: what is in the slot is of another one
            layer[:, row] = -1
            layer[:, row, :, :there] = truth(salt, tokens, layer)[:, :, :there]
        known = cache.recall(salt, tokens, row, there)
        assert there <= known
        assert known == there or known < len(tokens)
        for layer in layers:
            right = truth(salt, tokens, layer)
            assert torch.equal(layer[:, row, :, :known], right[:, :, :known])
            layer[:, row, :, : len(tokens)] = right
        cache.keep(salt, tokens, row, known)
        assert cache.bytes_held <= cache.bytes


def test_the_last_token_is_left_to_be_computed() -> None:
    cache = PrefixCache(slots(), 10 * BLOCK_BYTES)
    tokens = list(range(3 * BLOCK))
    cache.keep("", tokens, 0, 0)
    assert cache.bytes_held == 3 * BLOCK_BYTES
    assert cache.recall("", tokens, 1, 0) == 3 * BLOCK - 1
    assert cache.recall("", [*tokens, 1], 1, 0) == 3 * BLOCK


def test_what_is_too_small_for_a_block_keeps_nothing() -> None:
    for size in (0, BLOCK_BYTES - 1):
        cache = PrefixCache(slots(), size)
        cache.keep("", list(range(3 * BLOCK)), 0, 0)
        assert cache.recall("", list(range(3 * BLOCK)), 1, 0) == 0
        assert cache.bytes == cache.bytes_held == 0
