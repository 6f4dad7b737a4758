"""Each filter does what its definition says, and draws follow the distribution."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shared.job import SamplingParams
from tests.support.models import NoText
from worker.engine.base import EngineRequest
from worker.engine.draw import uniform
from worker.engine.sampler import sample
from worker.engine.sequence import Sequence

VOCABULARY = 40


def sequence(seed: int = 0, tokens: tuple[int, ...] = (1, 2), **params: Any) -> Sequence:
    options = {"max_tokens": 1000, "temperature": 1.0, "seed": seed, **params}
    return Sequence(
        EngineRequest(id="x", prompt_ids=tokens, params=SamplingParams(**options)),
        decoder=NoText(),
        eos_ids=(),
        context=10_000,
    )


def logits(rows: int = 1, seed: int = 5) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def drawn(count: int, **params: Any) -> Counter[int]:
    row = logits()
    return Counter(sample(row.clone(), [sequence(seed, **params)])[0] for seed in range(count))


@pytest.mark.parametrize(
    ("params", "warper"),
    [
        ({"top_k": 5}, TopKLogitsWarper(5)),
        ({"top_p": 0.8}, TopPLogitsWarper(0.8)),
        ({"min_p": 0.1}, MinPLogitsWarper(0.1)),
        ({"temperature": 0.5}, TemperatureLogitsWarper(0.5)),
        ({"repetition_penalty": 1.7}, RepetitionPenaltyLogitsProcessor(1.7)),
        (
            {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
            LogitsProcessorList(
                [
                    TemperatureLogitsWarper(1.5),
                    TopKLogitsWarper(12),
                    TopPLogitsWarper(0.9),
                    MinPLogitsWarper(0.02),
                ]
            ),
        ),
    ],
)
def test_draws_follow_the_distribution_transformers_would_draw_from(
    params: dict[str, Any], warper: Any
) -> None:
    count = 4000
    wanted = warper(torch.tensor([[1, 2]]), logits()).softmax(dim=-1)[0]
    seen = drawn(count, **params)
    assert set(seen) <= set(wanted.nonzero().flatten().tolist())
    for token_id, probability in enumerate(wanted.tolist()):
        assert abs(seen[token_id] / count - probability) < 0.03


def test_presence_and_frequency_count_the_answer_alone() -> None:
    row = torch.zeros(1, VOCABULARY)
    target = sequence(tokens=(3,), temperature=0.0, presence_penalty=1.0, frequency_penalty=0.5)
    for token_id in (4, 4, 5):
        target.accept(token_id)
    sample(row, [target])
    assert row[0, 3].item() == 0
    assert row[0, 4].item() == -2.0
    assert row[0, 5].item() == -1.5


def test_greedy_ignores_the_seed() -> None:
    best = int(logits().argmax())
    assert {sample(logits(), [sequence(seed, temperature=0.0)])[0] for seed in range(20)} == {best}


def test_a_row_is_drawn_alike_in_any_batch() -> None:
    rows = logits(8)
    sequences = [sequence(seed, top_p=0.95) for seed in range(8)]
    together = sample(rows.clone(), sequences)
    assert together == [
        sample(rows[i : i + 1].clone(), [sequences[i]])[0] for i in range(len(sequences))
    ]


@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-30, 5e-324])
def test_a_tiny_temperature_is_greedy_and_never_nan(temperature: float) -> None:
    assert sample(logits(), [sequence(temperature=temperature)]) == [int(logits().argmax())]


def test_uniform_is_fixed_for_all_time_and_uniform() -> None:
    """A job resumed after an upgrade draws as before: these values may never change."""
    assert [uniform(0, 0), uniform(1, 2), uniform(2**53 - 1, 1000)] == [
        0.0564663990004608,
        0.6434025071674214,
        0.9368325763679751,
    ]
    values = [uniform(seed, position) for seed in range(50) for position in range(50)]
    assert all(0 <= value < 1 for value in values)
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    assert len(set(values)) == len(values)
