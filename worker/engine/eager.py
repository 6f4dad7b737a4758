"""The model's own forward pass, operation by operation: any architecture, device and dtype."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.activation import in_strips
from worker.engine.cache import ROWS, SlotCache, Step, aligned
from worker.engine.sampler import sample
from worker.engine.sequence import Sequence


class EagerForward:
    """A transformers model on a `SlotCache`. The model must use `attention.NAME`."""

    ragged: Final = False
    at_once: Final = 1024

    def __init__(self, model: PreTrainedModel, *, slots: int, context: int) -> None:
        """`context` in tokens."""
        if model.device.type == "cpu":
            in_strips(model)
        self._model = model
        self._cache = SlotCache(slots, context, model.device)
        first = self([Step(row=0, start=0, tokens=[0, 0])])  # allocates the cache
        self._vocabulary = first.shape[-1]

    @property
    def tensors(self) -> list[Tensor]:
        return [each.unsqueeze(0) for each in self._cache.tensors]

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    @torch.inference_mode()
    def __call__(self, steps: list[Step]) -> Tensor:
        """A decode pass covers the cache rows 0..last even where one of them is still prefilling.

        Computing a row for nothing is cheaper than gathering all the others. Both kinds of pass
        compute multiples of `ROWS` rows in every matrix product.
        """
        decode = all(len(step.tokens) == 1 for step in steps)
        if decode:
            by_row = {step.row: step for step in steps}
            rows = aligned(max(by_row) + 1, ROWS)
            batch = [by_row.get(row, Step(row, 0, [])) for row in range(rows)]
        else:
            batch = steps
        placement = self._cache.place(batch)
        logits: Tensor = self._model(
            input_ids=placement.token_ids,
            position_ids=placement.positions.clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1 if decode else ROWS,
            placement=placement,
        ).logits[:, -1]
        if decode:
            return logits[[step.row for step in steps]]
        return logits[[bool(step.wanted) for step in steps]]

    def sample(self, logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
        with torch.inference_mode():
            return sample(logits, sequences)

    def move(self, source: int, target: int, length: int) -> None:
        self._cache.move(source, target, length)
