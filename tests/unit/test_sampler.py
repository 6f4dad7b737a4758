"""Each filter does what its definition says, and draws follow the distribution."""

from collections import Counter
from typing import Any

import numpy as np
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

from shared.grammars import byte_tokenizer
from shared.job import SamplingParams
from tests.support.models import NoText
from worker.engine import sampler
from worker.engine.base import EngineRequest
from worker.engine.draw import uniform
from worker.engine.logprobs import Logprobs
from worker.engine.sampler import sample
from worker.engine.sequence import Sequence
from worker.engine.vocabulary import Vocabulary

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


def test_logit_bias_comes_first() -> None:
    row = logits()
    best, other = int(row.argmax()), int(row.argmin())
    assert sample(row.clone(), [sequence(temperature=0.0, logit_bias={best: -100})]) != [best]
    assert sample(row.clone(), [sequence(temperature=0.0, logit_bias={other: 100})]) == [other]
    # The penalty is taken of what the bias has made of the logit.
    target = sequence(
        tokens=(7,), temperature=0.0, logit_bias={7: 2.0, 9: -1.5}, repetition_penalty=2.0
    )
    changed = torch.zeros(1, VOCABULARY)
    sample(changed, [target])
    assert changed[0, 7].item() == 1.0
    assert changed[0, 9].item() == -1.5


class Allows:
    """A constraint that allows some tokens, and is never complete."""

    error = None
    is_complete = False

    def __init__(self, *token_ids: int) -> None:
        self.allowed = np.zeros(64, dtype=np.bool_)
        self.allowed[list(token_ids)] = True


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 1e-9},
        {"top_p": 1 - 1e-9},
        {"min_p": 1.0},
        {"repetition_penalty": 0.01},
        {"presence_penalty": -2.0, "frequency_penalty": -2.0},
        {"logit_bias": {0: 100, 39: 100}},
    ],
)
def test_no_draw_lands_on_a_forbidden_token(params: dict[str, Any]) -> None:
    row = logits()
    unlikely = row[0].argsort()[:3].tolist()
    for seed in range(50):
        target = sequence(seed, tokens=(0, 39), **params)
        target.constraint = Allows(*unlikely)  # type: ignore[assignment]
        assert sample(row.clone(), [target])[0] in unlikely


def test_a_draw_at_the_very_end_lands_on_the_last_allowed_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda *_: 1.0)
    target = sequence()
    target.constraint = Allows(3, 5)  # type: ignore[assignment]
    assert sample(logits(), [target]) == [5]


def test_a_constraint_leaves_its_neighbours_alone() -> None:
    rows = logits(3)
    sequences = [sequence(seed) for seed in range(3)]
    alone = sample(rows.clone(), sequences)
    sequences[1].constraint = Allows(int(rows[1].argmin()))  # type: ignore[assignment]
    together = sample(rows.clone(), sequences)
    assert (together[0], together[2]) == (alone[0], alone[2])
    assert together[1] == int(rows[1].argmin())


def test_log_probabilities_are_those_of_the_model_alone() -> None:
    rows = logits(3)
    sequences = [
        sequence(temperature=0.1, logprobs=3, logit_bias={5: 50}, repetition_penalty=1.5),
        sequence(),
        sequence(logprobs=0),
    ]
    expected = rows.clone().log_softmax(dim=-1)
    told = Logprobs(rows, sequences, Vocabulary(byte_tokenizer, NoText()))
    sample(rows, sequences)
    found = told.of([5, 6, 7])
    assert set(found) == {0, 2}
    assert (found[0].drawn.id, found[0].drawn.raw) == (5, b"\x05")
    assert found[0].drawn.logprob == pytest.approx(expected[0, 5].item())
    best = expected[0].topk(3)
    assert [each.id for each in found[0].top] == best.indices.tolist()
    assert [each.logprob for each in found[0].top] == pytest.approx(best.values.tolist())
    assert (found[2].drawn.logprob, found[2].top) == (pytest.approx(expected[2, 7].item()), ())


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
