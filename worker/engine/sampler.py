"""Logits to tokens: bias and grammar, penalties, temperature, filters, then one seeded draw.

A request's draw depends on its own row, its seed and its position, never on its
neighbours: a resumed job draws what the first attempt would have drawn.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from worker.engine.draw import uniform
from worker.engine.sequence import Sequence


def sample(logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
    """Choose the next token of each sequence.

    Args:
        logits: float [rows, vocabulary]; may be written to.
        sequences: one for each row.
    """
    logits = logits.float()
    for row, sequence in enumerate(sequences):
        _bias(logits[row], sequence)
        _penalize(logits[row], sequence)
    chosen = logits.argmax(dim=-1).tolist()
    for row, sequence in enumerate(sequences):
        if not sequence.params.greedy:
            chosen[row] = _draw(logits[row], sequence)
    return [int(token_id) for token_id in chosen]


def _bias(row: Tensor, sequence: Sequence) -> None:
    """Add what the request wants added, and forbid what its grammar does, in place."""
    if sequence.bias is not None:
        row[_on(row, sequence.bias.ids)] += _on(row, sequence.bias.values)
    if sequence.constraint is not None:
        allowed = torch.from_numpy(sequence.constraint.allowed[: row.numel()])
        row.masked_fill_(~allowed.to(row.device), float("-inf"))


def _penalize(row: Tensor, sequence: Sequence) -> None:
    """Apply the three penalties in place to `row`, float [vocabulary]."""
    params, tally = sequence.params, sequence.tally
    if tally is None:
        return
    ids, times = _on(row, tally.ids), _on(row, tally.times)
    scores = row[ids]
    penalized = torch.where(
        scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty
    )
    said = params.presence_penalty + params.frequency_penalty * times
    row[ids] = torch.where(times > 0, penalized - said, penalized)


def _on(row: Tensor, numbers: array[int] | array[float]) -> Tensor:
    """A copy beside `row`: as long as something refers to an array, it can't grow."""
    return torch.from_numpy(np.array(numbers)).to(row.device)


def _draw(row: Tensor, sequence: Sequence) -> int:
    """Draw from `row`, float [vocabulary], by inverting the cumulative distribution."""
    params = sequence.params
    row = row / params.temperature
    if 0 < params.top_k < row.numel():
        kth = row.topk(params.top_k).values[-1]
        row = row.masked_fill(row < kth, float("-inf"))
    probabilities = row.softmax(dim=-1)
    if params.top_p < 1:
        probabilities = _nucleus(probabilities, params.top_p)
    if params.min_p > 0:
        floor = params.min_p * probabilities.max()
        probabilities = probabilities.masked_fill(probabilities < floor, 0)
    cumulative = probabilities.double().cumsum(dim=-1)
    target = uniform(params.seed, sequence.generated) * cumulative[-1]
    # right=True never lands on a token of probability zero; where the product was rounded up to
    # the whole, that is the last token with any.
    index = int(torch.searchsorted(cumulative, target, right=True))
    if index == row.numel():
        index = int(torch.searchsorted(cumulative, cumulative[-1]))
    return index


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens that holds `top_p` (Holtzman et al. 2020)."""
    ordered, ids = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.zeros_like(probabilities)
    inside = before < top_p
    inside[0] = True  # however small top_p is
    kept[ids[inside]] = ordered[inside]
    return kept
