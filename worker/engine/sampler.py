"""Logits to tokens: bias and grammar, penalties, temperature, filters, then one seeded draw.

A request's draw depends on its own row, its seed and its position, never on its
neighbours: a resumed job draws what the first attempt would have drawn.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from typing import Final

import numpy as np
import torch
from torch import Tensor

from worker.engine.draw import uniform
from worker.engine.sequence import Sequence

_ELEMENTS: Final = 2**22
"""Probabilities that are computed together: what that takes of memory is bounded."""


def sample(logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
    """Choose the next token of each sequence.

    Args:
        logits: float [rows, vocabulary]; may be written to.
        sequences: one for each row; several rows of one are for tokens that follow each other.
    """
    logits = logits.float()
    for row, sequence in enumerate(sequences):
        _bias(logits[row], sequence)
        _penalize(logits[row], sequence)
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    positions = _positions(sequences)
    drawing = [row for row, sequence in enumerate(sequences) if not sequence.params.greedy]
    together = max(1, _ELEMENTS // logits.shape[-1])
    for at in range(0, len(drawing), together):
        rows = drawing[at : at + together]
        drawn = _draw(
            logits[rows], [sequences[row] for row in rows], [positions[row] for row in rows]
        )
        for row, token_id in zip(rows, drawn, strict=True):
            chosen[row] = token_id
    return chosen


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


def _positions(sequences: Rows[Sequence]) -> list[int]:
    """Of the token that each row is for, in its answer."""
    positions: list[int] = []
    before = None
    for sequence in sequences:
        positions.append(positions[-1] + 1 if sequence is before else sequence.generated)
        before = sequence
    return positions


def _draw(logits: Tensor, sequences: Rows[Sequence], positions: Rows[int]) -> list[int]:
    """Draw from each row, float [rows, vocabulary], by inverting its cumulative distribution.

    `positions` as `_positions` has them. No operation mixes rows, and none waits for a GPU before
    the last.
    """
    size = logits.shape[-1]
    params = [sequence.params for sequence in sequences]

    def column(values: Iterable[float], dtype: torch.dtype = logits.dtype) -> Tensor:
        return torch.tensor([[value] for value in values], dtype=dtype, device=logits.device)

    logits = logits / column(each.temperature for each in params)
    kept = [each.top_k if 0 < each.top_k < size else size for each in params]
    most = max((count for count in kept if count < size), default=0)
    if most:
        at = column((min(count, most) - 1 for count in kept), torch.long)
        kth = logits.topk(most).values.gather(-1, at)
        limited = column((count < size for count in kept), torch.bool)
        logits = logits.masked_fill(limited & (logits < kth), float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if any(each.top_p < 1 for each in params):
        # What rounding leaves out of a whole distribution belongs to it.
        inside = column(each.top_p if each.top_p < 1 else float("inf") for each in params)
        probabilities = _nucleus(probabilities, inside)
    if any(each.min_p for each in params):
        floor = column(each.min_p for each in params) * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < floor, 0)
    cumulative = probabilities.double().cumsum(dim=-1)
    whole = cumulative[:, -1:].contiguous()
    seeds = (each.seed for each in params)
    draws = column(map(uniform, seeds, positions), whole.dtype)
    # right=True never lands on a token of probability zero; where the product was rounded up to
    # the whole, that is the last token with any.
    index = torch.searchsorted(cumulative, draws * whole, right=True)
    last = torch.searchsorted(cumulative, whole)
    # A row that is no number, or has nothing that is allowed, still gets a token that there is.
    index = torch.where(index == size, last, index).clamp_(max=size - 1)
    drawn: list[int] = index[:, 0].tolist()
    return drawn


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Keep each row's smallest set of tokens that holds its `top_p` (Holtzman et al. 2020)."""
    ordered, ids = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    inside = before < top_p
    inside[:, 0] = True  # however small top_p is
    return torch.zeros_like(probabilities).scatter(-1, ids, ordered.where(inside, 0))
