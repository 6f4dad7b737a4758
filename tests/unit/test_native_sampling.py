"""The native sampler chooses what torch would, and the same in any company."""

import ctypes
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.grammars import byte_tokenizer
from shared.job import Grammar, GrammarKind, SamplingParams
from tests.support.kernels import loaded
from tests.support.models import NoText
from worker.engine import sampler
from worker.engine.base import EngineRequest
from worker.engine.constraint import Constraint, Constraints
from worker.engine.fake import CodePoints
from worker.engine.native import isa, sampling
from worker.engine.native.sampling import NativeSampler
from worker.engine.sequence import Sequence
from worker.engine.vocabulary import Vocabulary

NEVER = float("-inf")
NEAR = 1e-6


def sequence(seed: int = 0, prompt: tuple[int, ...] = (1, 2), **params: Any) -> Sequence:
    options = {"max_tokens": 1000, "temperature": 1.0, "seed": seed, **params}
    return Sequence(
        EngineRequest(id="x", prompt_ids=prompt, params=SamplingParams(**options)),
        decoder=NoText(),
        eos_ids=(),
        context=10_000,
    )


def native(logits: torch.Tensor, sequences: list[Sequence], **options: Any) -> list[int]:
    return NativeSampler(loaded(), rows=len(sequences), **options).sample(logits, sequences)


def logits(size: int, seed: int = 5, scale: float = 3) -> torch.Tensor:
    return torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) * scale


@contextmanager
def drawing(uniform: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (sampler, sampling):
            patch.setattr(module, "uniform", lambda *_: uniform)
        yield


def by_torch(row: torch.Tensor, uniform: float, params: dict[str, Any]) -> int:
    with drawing(uniform):
        return sampler.sample(row.clone(), [sequence(**params)])[0]


def by_us(row: torch.Tensor, uniform: float, params: dict[str, Any]) -> int:
    with drawing(uniform):
        return native(row.clone(), [sequence(**params)])[0]


def between(row: torch.Tensor, uniform: float, params: dict[str, Any], token_id: int) -> bool:
    """Whether torch would choose it for a draw next to `uniform`: ids rise with draws."""
    low, high = (by_torch(row, max(uniform + off, 0.0), params) for off in (-NEAR, NEAR))
    return low <= token_id <= high


def nearby(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same filters, moved by as much as rounding may move a token over their edges."""
    moves = (-NEAR, 0, NEAR)
    for top_p, min_p in itertools.product(moves, moves):
        yield params | {
            "top_p": min(params["top_p"] * (1 + top_p), 1.0),
            "min_p": min(params["min_p"] * (1 + min_p), 1.0),
        }


@st.composite
def rows(draw: st.DrawFn) -> torch.Tensor:
    """Logits with ties, forbidden tokens, flat stretches and peaks."""
    row = logits(
        draw(st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 700, 2100])),
        seed=draw(st.integers(0, 2**31)),
        scale=draw(st.sampled_from([0.0, 1.0, 3.0, 30.0])),
    )
    digits = draw(st.sampled_from([None, 0, 1]))
    if digits is not None:
        row = row.round(decimals=digits)
    for token_id, value in draw(
        st.lists(st.tuples(st.integers(0, row.numel() - 1), st.floats(-50, 50, width=32)))
    ):
        row[0, token_id] = value
    forbidden = draw(st.sampled_from([0.0, 0.3, 0.99]))
    mask = torch.rand(row.shape, generator=torch.Generator().manual_seed(1)) < forbidden
    mask[0, draw(st.integers(0, row.numel() - 1))] = False
    return row.masked_fill(mask, NEVER)


TOP_P = st.one_of(st.just(1.0), st.floats(0, 1, exclude_min=True))
MIN_P = st.one_of(st.just(0.0), st.floats(0, 1))


# Always the same examples: where weights are so near that rounding orders them, all may differ.
@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    row=rows(),
    uniform=st.floats(0, 1 - 2 * NEAR),  # at the very end, torch's sums lose small ones
    temperature=st.sampled_from([1e-5, 1e-3, 0.3, 0.7, 1.0, 1.7, 10.0]),
    top_k=st.one_of(st.just(0), st.integers(1, 3000)),
    top_p=TOP_P,
    min_p=MIN_P,
)
@example(row=torch.zeros(1, 1000), uniform=0.5, temperature=1.0, top_k=0, top_p=0.5, min_p=0.0)
@example(row=torch.zeros(1, 1000), uniform=0.99, temperature=1.0, top_k=3, top_p=1e-9, min_p=1.0)
@example(row=torch.zeros(1, 1000), uniform=0.9, temperature=1.0, top_k=0, top_p=0.0305, min_p=0.0)
def test_it_chooses_as_torch_does(row: torch.Tensor, uniform: float, **params: Any) -> None:
    chosen = by_us(row, uniform, params)
    assert row[0, chosen] > NEVER
    if not between(row, uniform, params, chosen):
        assert any(between(row, uniform, each, chosen) for each in nearby(params))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 2.5},
        {"top_k": 7},
        {"top_k": 400},
        {"top_p": 0.9},
        {"min_p": 0.05},
        {"temperature": 1.3, "top_k": 60, "top_p": 0.8, "min_p": 0.01},
    ],
)
def test_draws_are_spread_as_the_distribution_says(params: dict[str, Any]) -> None:
    """Draws at even distances: no token's share may be off by more than a draw at each end."""
    count, size = 8000, 900
    row = logits(size)
    library = NativeSampler(loaded(), rows=1)
    target = sequence(**params)
    seen: Counter[int] = Counter()
    for i in range(count):
        with drawing((i + 0.5) / count):
            seen[library.sample(row.clone(), [target])[0]] += 1
    for token_id, probability in enumerate(exactly(row[0], **params)):
        assert abs(seen[token_id] - count * probability) <= 1.001


def exactly(
    row: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[float]:
    """By the definitions, in Python's numbers."""
    weights = (row.double() / temperature).softmax(dim=-1).tolist()
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept = order[: top_k or None]
    whole = sum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass < top_p * whole:
            nucleus.append(i)
        mass += weights[i]
    nucleus = [i for i in nucleus if weights[i] >= min_p * weights[order[0]]]
    whole = sum(weights[i] for i in nucleus)
    return [weights[i] / whole if i in nucleus else 0 for i in range(len(weights))]


@settings(max_examples=100, deadline=None)
@given(
    row=rows(),
    prompt=st.lists(st.integers(0, 14), min_size=1, max_size=20),
    answer=st.lists(st.integers(0, 14), max_size=20),
    bias=st.dictionaries(st.integers(0, 14), st.floats(-100, 100), max_size=4),
    repetition_penalty=st.sampled_from([1.0, 0.01, 1.3]),
    presence_penalty=st.sampled_from([0.0, -2.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
)
def test_bias_and_penalties_are_the_same_bits(
    row: torch.Tensor,
    prompt: list[int],
    answer: list[int],
    bias: dict[int, float],
    **penalties: Any,
) -> None:
    row = torch.nn.functional.pad(row, (0, 15))
    params = {"temperature": 0.0, "logit_bias": bias, **penalties}
    target = sequence(prompt=tuple(prompt), **params)
    for token_id in answer:
        target.accept(token_id)
    theirs, ours = row.clone(), row.clone()
    assert native(ours, [target]) == sampler.sample(theirs, [target])
    assert torch.equal(ours, theirs)


def constraint(choices: list[str]) -> Constraint:
    grammar = Grammar(GrammarKind.CHOICE, json.dumps(choices))
    params = SamplingParams(max_tokens=99, temperature=0, seed=0, grammar=grammar)
    preparing = Constraints(Vocabulary(byte_tokenizer, CodePoints())).prepare(params, ())
    assert preparing is not None
    made = preparing.result()
    assert made is not None
    made.compute()
    return made


@pytest.mark.parametrize(
    "params", [{"temperature": 0.0}, {}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 1.0}]
)
def test_no_draw_lands_on_a_forbidden_token(params: dict[str, Any]) -> None:
    sequences = [sequence(seed, **params) for seed in range(60)]
    for each in sequences[::2]:
        each.constraint = constraint(["a", "no", "~"])
    row = logits(256)
    chosen = native(row.expand(60, -1).clone(), sequences)
    assert set(chosen[::2]) <= set(b"an~")
    assert chosen[1::2] == native(row.expand(30, -1).clone(), sequences[1::2])
    assert chosen == [sampler.sample(row.clone(), [each])[0] for each in sequences]


def test_a_mask_that_is_too_short_is_refused() -> None:
    target = sequence()
    target.constraint = constraint(["a"])
    with pytest.raises(ValueError, match="257 tokens"):
        native(logits(257), [target])


def test_a_draw_at_the_very_end_lands_on_the_last_token_with_any_probability() -> None:
    row = torch.full((1, 700), NEVER)
    row[0, [3, 300, 301]] = 0.0
    row[0, 500] = -200.0
    for params in ({}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 0.5}):
        assert by_us(row, 1.0, params) == 301


def test_the_first_of_the_likeliest_wins() -> None:
    row = torch.zeros(1, 600)
    row[0, [299, 300, 599]] = 1.0
    assert native(row, [sequence(temperature=0.0)]) == [299]


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_k": 2, "top_p": 0.5}])
def test_what_no_model_should_say_is_still_a_token(params: dict[str, Any]) -> None:
    for value in (NEVER, float("nan"), float("inf")):
        for size in (1, 300):
            row = torch.full((1, size), value)
            assert native(row.clone(), [sequence(**params)]) == [0]
    row = torch.full((1, 300), float("nan"))
    row[0, 270] = 1.0
    assert native(row, [sequence(**params)]) == [270]


def test_a_row_is_drawn_alike_in_any_company_and_in_any_order() -> None:
    together = torch.cat([logits(1000, seed) for seed in range(9)])
    kinds: list[dict[str, Any]] = [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}]
    sequences = [sequence(seed, **kinds[seed % 4]) for seed in range(9)]
    alone = [native(together[i : i + 1].clone(), [sequences[i]])[0] for i in range(9)]
    assert native(together.clone(), sequences) == alone
    spaced = torch.full((9, 1500), 99.0)
    spaced[:, :1000] = together
    assert native(spaced[:, :1000], sequences) == alone
    task = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
    shared: list[int] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, task, ctypes.c_void_p)
    def run(pool: int, count: int, task: Any, arg: int) -> None:
        shared.append(pool)
        for i in reversed(range(count)):
            task(arg, i)

    address = ctypes.cast(run, ctypes.c_void_p).value
    assert native(together.clone(), sequences, run=address, pool=7) == alone
    assert shared == [7]


@pytest.mark.parametrize("level", isa.of_this_machine(), ids=lambda level: level.name)
def test_narrower_machines_choose_the_same(level: isa.Level) -> None:
    """Logits, as they are left behind, show all weights."""
    params = {"temperature": 0.8, "top_p": 0.95}
    for seed in range(5):
        wide, narrow = logits(1000, seed), logits(1000, seed)
        chosen = native(wide, [sequence(seed, **params)])
        library = NativeSampler(loaded(level), rows=1)
        assert library.sample(narrow, [sequence(seed, **params)]) == chosen
        assert torch.equal(wide, narrow)
