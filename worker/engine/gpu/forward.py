"""Passes of a few sizes, each of them ready to be launched."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine import speculation
from worker.engine.blocks import BLOCK
from worker.engine.cache import Step, aligned
from worker.engine.gpu.cache import PackedCache
from worker.engine.gpu.graphs import Compute, Record
from worker.engine.gpu.inputs import Grid, Inputs, Room
from worker.engine.sampler import sample
from worker.engine.sequence import Sequence

TOKENS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Of a pass that does more than decode."""
_FEW: Final = (1, 2, 4)
_STREAMS: Final = 8
"""Decoding is recorded for `_FEW` streams, and for multiples of this."""


def takes(model: PreTrainedModel) -> bool:
    """Whether FlashAttention computes on its device and in its numbers."""
    return model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16)


class PackedForward:
    """A transformers model whose pass takes tokens of all sequences, one behind the other.

    The model must use `attention.NAME`.
    """

    ragged: Final = True

    def __init__(self, model: PreTrainedModel, *, slots: int, context: int, record: Record) -> None:
        """`context` in tokens. Records all sizes of a pass.

        Raises:
            Exception: whatever the model raises that can't be computed or recorded so.
        """
        config: Any = model.config.get_text_config()
        self.at_once = TOKENS[-1] - slots - speculation.ROWS  # beside all that decode
        self._model = model
        self._record = record
        self._slots = slots
        self._grid = Grid(slots, aligned(context, BLOCK))
        self._cache = PackedCache(config.num_hidden_layers, self._grid)
        self._passes: dict[Room, tuple[Inputs, Compute]] = {}
        self._logits: Tensor | None = None
        """Of whichever pass was computed last."""
        rooms = {self._room(count, 1) for count in range(1, slots + 1)}
        rooms |= {self._room(count, 2) for count in TOKENS}
        # The largest first: what it computes in is enough for the others.
        for room in sorted(rooms, reverse=True):
            self._prepared(room)
        self._prepared(min(rooms))[1]()  # whatever is allocated with the first pass

    @property
    def tensors(self) -> list[Tensor]:
        return [self._cache.tensor]

    @property
    def vocabulary(self) -> int:
        assert self._logits is not None, "nothing has been computed"
        return self._logits.shape[-1]

    def __call__(self, steps: list[Step]) -> Tensor:
        counts = [len(step.tokens) for step in steps]
        inputs, compute = self._prepared(self._room(sum(counts), max(counts)))
        inputs.fill(steps)
        wanted = sum(step.wanted for step in steps)
        logits = compute()[:wanted]
        if not wanted and logits.is_cuda:
            # Nobody waits for a result, but what the pass takes is measured.
            torch.cuda.current_stream().synchronize()
        return logits

    def sample(self, logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
        with torch.inference_mode():
            return sample(logits, sequences)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        tensor = self._cache.tensor
        tensor[:, target, :, :length] = tensor[:, source, :, :length]

    def _room(self, tokens: int, longest: int) -> Room:
        """The smallest that is recorded, for so many tokens, `longest` of them of one sequence."""
        if longest == 1 and tokens <= self._slots:
            few = next((count for count in _FEW if count >= tokens), aligned(tokens, _STREAMS))
            return Room(few, few, 1, few)
        size = next((count for count in TOKENS if count >= tokens), aligned(tokens, TOKENS[-1]))
        return Room(size, self._slots, size, self._slots + speculation.ROWS)

    def _prepared(self, room: Room) -> tuple[Inputs, Compute]:
        if room not in self._passes:
            inputs = Inputs(room, self._grid, self._model.device)
            self._passes[room] = inputs, self._record(self._pass(inputs))
        return self._passes[room]

    def _pass(self, inputs: Inputs) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def compute() -> Tensor:
            self._cache.placement = placement = inputs.placement
            logits: Tensor = self._model(
                input_ids=inputs.token_ids[None],
                position_ids=inputs.positions[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=inputs.wanted,
                placement=placement,
            ).logits[0]
            if self._logits is None:
                rows = aligned(self._slots, _STREAMS) + speculation.ROWS
                self._logits = logits.new_empty((rows, logits.shape[-1]))
            return self._logits[: len(logits)].copy_(logits)

        return compute
