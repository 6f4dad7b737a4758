"""Continuous batching around a transformers model's own forward pass, on a slot cache."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shared.errors import InvalidLogitBiasError
from worker.engine.activation import in_strips
from worker.engine.base import EngineRequest, Output
from worker.engine.blocks import BLOCK
from worker.engine.cache import ROWS, SlotCache, Step, aligned
from worker.engine.constraint import Constraints
from worker.engine.decoder import Decoder
from worker.engine.logprobs import Logprobs
from worker.engine.prefix import PrefixCache
from worker.engine.sampler import sample
from worker.engine.sequence import Sequence
from worker.engine.vocabulary import Vocabulary

_IDLE_PREFILL: Final = 1024
"""Prompt tokens prefilled at once while no stream waits for its next token."""
_KEPT_TOGETHER: Final = 4 * BLOCK
"""Generated tokens that are stored at a time: fewer cost more, more could be felt as a pause."""


class TransformersEngine:
    """Any causal language model that `worker.models` accepts.

    Each request holds a row of the cache, and the rows in use are 0..n-1: when a request
    leaves, the last row's takes its place, so that decoding reads the cache without a copy.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        decoder: Decoder,
        vocabulary: Vocabulary,
        eos_ids: Collection[int],
        slots: int,
        context: int,
        prefill_chunk: int,
        prefix_bytes: int,
    ) -> None:
        """`context` and `prefill_chunk` in tokens; `prefix_bytes`: for prompts gone by."""
        if model.device.type == "cpu":
            in_strips(model)
        self._model = model
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._constraints = Constraints(vocabulary)
        self._eos_ids = frozenset(eos_ids)
        self._slots = slots
        self._context = context
        self._prefill_chunk = prefill_chunk
        self._cache = SlotCache(slots, context, model.device)
        self._running: list[Sequence] = []
        """In order of arrival."""
        first = self._forward([Step(row=0, start=0, tokens=[0, 0])])  # allocates the cache
        self._tokens = first.shape[-1]
        self._prefixes = PrefixCache(self._cache.tensors, prefix_bytes)

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._running)

    @property
    def kv_bytes(self) -> int:
        return self._cache.bytes + self._prefixes.bytes

    @property
    def kv_usage(self) -> float:
        return sum(s.cached for s in list(self._running)) / (self._slots * self._context)

    @property
    def prefix_bytes(self) -> int:
        return self._prefixes.bytes_held

    def add(self, request: EngineRequest) -> None:
        if max(request.params.logit_bias, default=0) >= self._tokens:
            raise InvalidLogitBiasError(f"The model's tokens are 0 to {self._tokens - 1}.")
        sequence = Sequence(
            request, decoder=self._decoder, eos_ids=self._eos_ids, context=self._context
        )
        sequence.preparing = self._constraints.prepare(request.params, request.generated_ids)
        sequence.row = len(self._running)
        self._running.append(sequence)

    def cancel(self, request_id: str) -> None:
        for sequence in self._running:
            if sequence.id == request_id:
                self._remove(sequence)
                return

    def step(self) -> list[Output]:
        """Prefill a chunk of what has arrived, then decode one token of all that run."""
        ready = self._ready()
        ended = [s for s in ready if s.finish_reason]  # in an earlier attempt, or before the first
        outputs = [s.last_output for s in ended]
        decoding = [s for s in ready if s.pending == 1 and s not in ended]
        prefilling = [s for s in ready if s.pending > 1 and s not in ended]
        if prefilling:
            budget = self._prefill_chunk if decoding else _IDLE_PREFILL
            outputs += self._advance(self._chunks(prefilling, budget))
            for sequence in prefilling:
                self._keep(sequence, at_least=BLOCK)
        if decoding:
            outputs += self._advance([(s, 1) for s in decoding])
            for sequence in decoding:
                self._keep(sequence, at_least=_KEPT_TOGETHER)
        for sequence in [s for s in self._running if s.finish_reason]:
            self._remove(sequence)
        return outputs

    def _ready(self) -> list[Sequence]:
        """What can go on. Waits only where nothing else can."""
        if self._running and not any(s.is_ready for s in self._running):
            self._running[0].take_prepared()
        ready = [s for s in self._running if s.is_ready]
        for sequence in ready:
            sequence.take_prepared()
        return ready

    def _advance(self, chunks: list[tuple[Sequence, int]]) -> list[Output]:
        """Run the model over the next tokens of some sequences; draw where none is left."""
        steps = [
            Step(row=s.row, start=s.cached, tokens=s.tokens[s.cached : s.cached + count])
            for s, count in chunks
        ]
        complete = [i for i, (s, count) in enumerate(chunks) if s.pending == count]
        sequences = [chunks[i][0] for i in complete]
        constraints = [s.constraint for s in sequences if s.constraint]
        masks = self._constraints.compute(constraints) if constraints else None
        logits = self._forward(steps)
        for sequence, count in chunks:
            sequence.cached += count
        if masks is not None:
            masks.result()
        with torch.inference_mode():
            rows = logits[complete]
            logprobs = Logprobs(rows, sequences, self._vocabulary)
            token_ids = sample(rows, sequences)
            told = logprobs.of(token_ids)
        return [s.accept(token_ids[i], told.get(i)) for i, s in enumerate(sequences)]

    @torch.inference_mode()
    def _forward(self, steps: list[Step]) -> Tensor:
        """Logits behind each step's last token, float [steps, vocabulary].

        A decode pass covers the cache rows 0..last even where one of them is still
        prefilling: computing a row for nothing is cheaper than gathering all the others.
        Both kinds of pass compute multiples of `ROWS` rows in every matrix product.
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
        return logits[[step.row for step in steps]] if decode else logits

    def _remove(self, sequence: Sequence) -> None:
        self._keep(sequence, at_least=BLOCK)
        self._running.remove(sequence)
        last = len(self._running)
        for moved in self._running:
            if moved.row == last:
                self._cache.move(last, sequence.row, moved.cached)
                moved.row = sequence.row

    def _chunks(self, prefilling: list[Sequence], budget: int) -> list[tuple[Sequence, int]]:
        """What to prefill in one pass, first come first served.

        The pass is as wide as its longest chunk, so a sequence joins only where all rows at
        that width stay within `budget` tokens; the first one alone may be cut to it. One that
        begins like another in the pass waits for the next, and for what is known then.
        """
        first = prefilling[0]
        self._recall(first)
        width = min(first.pending, budget)
        chunks = [(first, width)]
        for sequence in prefilling[1:]:
            self._recall(sequence)
            if self._prefixes.bytes and any(_alike(other, sequence) for other, _ in chunks):
                continue
            width = max(width, sequence.pending)
            if width * (len(chunks) + 1) > budget:
                break
            chunks.append((sequence, sequence.pending))
        return chunks

    def _recall(self, sequence: Sequence) -> None:
        """Take over what is known of its prompt.

        As late as possible, and again before every chunk: those before it in the line may begin
        alike.
        """
        there = sequence.cached
        sequence.cached = self._prefixes.recall(sequence.salt, sequence.tokens, sequence.row, there)
        if sequence.cached > there:
            sequence.recalled += sequence.cached - there
            sequence.kept = sequence.cached

    def _keep(self, sequence: Sequence, at_least: int) -> None:
        """Store what has been computed since the last time, once it is so many tokens."""
        if sequence.cached - sequence.kept >= at_least:
            computed = sequence.tokens[: sequence.cached]
            self._prefixes.keep(sequence.salt, computed, sequence.row, sequence.kept)
            sequence.kept = sequence.cached // BLOCK * BLOCK


def _alike(computed: Sequence, other: Sequence) -> bool:
    """Whether a block that `other` has yet to see is one that `computed` is about to see."""
    end = other.cached // BLOCK * BLOCK + BLOCK
    return (
        computed.salt == other.salt
        and computed.cached < end < len(other.tokens)
        and computed.tokens[:end] == other.tokens[:end]
    )
