"""The index of known beginnings, against one that remembers everything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.blocks import BLOCK, BlockIndex

SALTS = st.sampled_from(["", "a", "1"])
BLOCKS = st.lists(st.sampled_from([1, 2, 70_000]), max_size=7)
"""A text as the token that each of its blocks repeats: few, so that texts share beginnings."""
REST = st.integers(0, BLOCK - 1)
CALLS = st.lists(st.tuples(st.booleans(), SALTS, BLOCKS, REST, st.integers(0, 3)), max_size=60)


def text(blocks: list[int], rest: int = 0) -> list[int]:
    return [token for block in blocks for token in [block] * BLOCK] + [9] * rest


def whole(index: BlockIndex, salt: str, tokens: list[int]) -> int:
    """How many blocks of a text are known to their ends."""
    return index.find(salt, tokens)[1] // BLOCK


@settings(deadline=None)
@given(st.integers(0, 9), CALLS)
def test_what_it_finds_is_what_was_stored_there_last(capacity: int, calls: list) -> None:
    index = BlockIndex(capacity)
    truth: dict[int, tuple[str, list[int]]] = {}
    """Of each place: the salt, and the text up to the end of the block."""
    for inserts, salt, blocks, rest, known in calls:
        tokens = text(blocks, rest)
        if inserts:
            there, added = index.insert(salt, tokens, known)
            for end, number in enumerate(added, start=there + 1):
                truth[number] = (salt, tokens[: end * BLOCK])
            assert len(set(added)) == len(added)
            if known <= there:
                assert there + len(added) == min(len(blocks), capacity)
            else:
                assert not added
        found, length = index.find(salt, tokens)
        assert len(found) == -(-length // BLOCK)
        for end, number in enumerate(found, start=1):
            held_salt, held = truth[number]
            assert held_salt == salt
            assert len(held) == end * BLOCK
            right = min(length, end * BLOCK)
            assert held[:right] == tokens[:right]
        assert all(0 <= number < capacity for number in truth)
        assert len(index) <= capacity
        if inserts and known <= there:
            assert length // BLOCK == min(len(blocks), capacity)


@settings(deadline=None)
@given(CALLS)
def test_where_there_is_room_nothing_is_forgotten(calls: list) -> None:
    index = BlockIndex(10_000)
    stored: set[tuple[str, tuple[int, ...]]] = set()
    for inserts, salt, blocks, rest, _ in calls:
        if inserts:
            index.insert(salt, text(blocks, rest), 0)
            stored |= {(salt, tuple(blocks[:end])) for end in range(1, len(blocks) + 1)}
        longest = max(
            (end for end in range(len(blocks) + 1) if (salt, tuple(blocks[:end])) in stored),
            default=0,
        )
        assert whole(index, salt, text(blocks, rest)) == longest
    assert len(index) == len(stored)


def test_the_least_recently_used_text_goes_from_its_end() -> None:
    index = BlockIndex(6)
    index.insert("", text([1, 2, 3]), 0)
    index.insert("", text([4, 5, 6]), 0)
    index.find("", text([1, 2]))
    index.insert("", text([7, 8]), 0)
    assert whole(index, "", text([4, 5, 6])) == 2  # first 3 had gone, then 6
    assert whole(index, "", text([1, 2, 3])) == 2
    assert whole(index, "", text([7, 8])) == 2


def test_a_beginning_that_is_in_use_outlives_what_follows_it() -> None:
    """A system prompt that everybody has, under prompts that come once."""
    index = BlockIndex(4)
    for question in range(10, 30):
        index.insert("", text([1, 2, question]), 0)
        assert whole(index, "", text([1, 2, question])) == 3


def test_a_text_whose_beginning_has_gone_is_not_stored() -> None:
    index = BlockIndex(3)
    index.insert("", text([1, 2]), 0)
    index.insert("", text([3, 4, 5]), 0)
    assert index.insert("", text([1, 2, 6]), 2) == (0, [])
    assert whole(index, "", text([3, 4, 5])) == 3


def test_salts_share_nothing() -> None:
    index = BlockIndex(10)
    index.insert("a", text([1, 2]), 0)
    assert index.find("b", text([1, 2])) == ([], 0)
    assert index.find("", text([1, 2])) == ([], 0)
    assert whole(index, "a", text([1, 2])) == 2


def test_of_the_newest_that_follows_as_much_is_found_as_is_right() -> None:
    index = BlockIndex(10)
    template = [5] * BLOCK + [6] * 11
    index.insert("", [*template, 1, 1, 1, 1, 1], 0)
    index.insert("", [*template, 2, 2, 2, 2, 2], 0)
    assert index.find("", [*template, 3, 3]) == ([0, 2], BLOCK + 11)
    assert index.find("", [*template, 2, 2, 3]) == ([0, 2], BLOCK + 13)
    assert index.find("", template) == ([0, 2], BLOCK + 11)
    assert index.find("", [*[5] * BLOCK, 7]) == ([0], BLOCK)
    assert index.find("", [5] * 9) == ([0], 9)


def test_what_has_gone_is_found_in_no_part() -> None:
    index = BlockIndex(2)
    index.insert("", text([1, 2]), 0)
    index.insert("", text([3, 4]), 0)
    assert index.find("", [1] * 9) == ([], 0)
    assert index.find("", [*text([3]), 4, 4]) == ([0, 1], BLOCK + 2)
