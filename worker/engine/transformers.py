"""Continuous batching around a model's forward pass."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Final

import torch

from shared.errors import InvalidLogitBiasError
from worker.engine import speculation
from worker.engine.base import EngineRequest, Output
from worker.engine.blocks import BLOCK
from worker.engine.chunk import Chunk
from worker.engine.constraint import Constraints
from worker.engine.decoder import Decoder
from worker.engine.forward import Forward, Successor
from worker.engine.logprobs import Logprobs
from worker.engine.pace import Pace
from worker.engine.prefix import PrefixCache
from worker.engine.sequence import Sequence
from worker.engine.vocabulary import Vocabulary

_KEPT_TOGETHER: Final = 4 * BLOCK
"""Generated tokens that are stored at a time: fewer cost more, more could be felt as a pause."""


class TransformersEngine:
    """Any causal language model that `worker.models` accepts.

    Each request holds a row of the cache, and new ones get the first free row. Where a pass covers
    all rows to the last one in use, that is kept low: when a request leaves, the last row's takes
    its place.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        decoder: Decoder,
        vocabulary: Vocabulary,
        eos_ids: Collection[int],
        slots: int,
        context: int,
        prefill_chunk: int,
        prefix_bytes: int,
        successor: Future[Successor] | None = None,
    ) -> None:
        """`context` and `prefill_chunk` in tokens; `prefix_bytes`: for prompts gone by.

        `successor` takes over from `forward` as soon as it is there; if it never comes, whoever
        tried to make it has said why.
        """
        self._forward = forward
        self._successor = successor
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._constraints = Constraints(vocabulary)
        self._eos_ids = frozenset(eos_ids)
        self._slots = slots
        self._context = context
        self._pace = Pace(prefill_chunk)
        self._running: list[Sequence] = []
        """In order of arrival."""
        self._prefix_bytes = prefix_bytes
        self._prefixes = PrefixCache(forward.tensors, prefix_bytes)

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._running)

    @property
    def kv_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._forward.tensors) + self._prefixes.bytes

    @property
    def kv_usage(self) -> float:
        return sum(s.cached for s in list(self._running)) / (self._slots * self._context)

    @property
    def prefix_bytes(self) -> int:
        return self._prefixes.bytes_held

    def add(self, request: EngineRequest) -> None:
        tokens = self._forward.vocabulary
        if max(request.params.logit_bias, default=0) >= tokens:
            raise InvalidLogitBiasError(f"The model's tokens are 0 to {tokens - 1}.")
        sequence = Sequence(
            request, decoder=self._decoder, eos_ids=self._eos_ids, context=self._context
        )
        sequence.preparing = self._constraints.prepare(request.params, request.generated_ids)
        taken = {other.row for other in self._running}
        sequence.row = next(row for row in range(self._slots) if row not in taken)
        self._running.append(sequence)

    def cancel(self, request_id: str) -> None:
        for sequence in self._running:
            if sequence.id == request_id:
                self._remove(sequence)
                return

    def step(self) -> list[Output]:
        """Prefill a chunk of what has arrived and decode one token of all that run."""
        self._switch()
        ready = self._ready()
        ended = [s for s in ready if s.finish_reason]  # in an earlier attempt, or before the first
        outputs = [s.last_output for s in ended]
        decoding = [s for s in ready if s.pending == 1 and s not in ended]
        prefilling = [s for s in ready if s.pending > 1 and s not in ended]
        decode = [Chunk(s, 1) for s in decoding]
        prefill: list[Chunk] = []
        if not prefilling:
            decode = self._with_drafts(decode)
        else:
            forward = self._forward
            budget = self._pace.budget(
                decoding, prefilling, ragged=forward.ragged, at_once=forward.at_once
            )
            prefill = self._chunks(prefilling, budget)
        together = [prefill + decode] if self._forward.ragged else [prefill, decode]
        for chunks in filter(None, together):
            began = time.perf_counter()
            outputs += self._advance(chunks)
            self._pace.note(chunks, time.perf_counter() - began)
        for sequence in prefilling:
            self._keep(sequence, at_least=BLOCK)
        if decoding:  # one: all that began together would be due in the same step
            furthest = max(decoding, key=lambda sequence: sequence.cached - sequence.kept)
            self._keep(furthest, at_least=_KEPT_TOGETHER)
        for sequence in [s for s in self._running if s.finish_reason]:
            self._remove(sequence)
        return outputs

    def _switch(self) -> None:
        """Go on with the successor, if it has come."""
        if self._successor is None or not self._successor.done():
            return
        coming, self._successor = self._successor, None
        if coming.exception() is not None:
            return
        successor = coming.result()
        for sequence in self._running:
            if sequence.cached:
                successor.take_over(sequence.row, sequence.cached, self._forward.tensors)
                sequence.kept = self._context  # it rounds otherwise: for nobody else's prompt
        self._forward = successor
        self._prefixes = PrefixCache(successor.tensors, self._prefix_bytes)

    def _ready(self) -> list[Sequence]:
        """What can go on. Waits only where nothing else can."""
        if self._running and not any(s.is_ready for s in self._running):
            self._running[0].take_prepared()
        ready = [s for s in self._running if s.is_ready]
        for sequence in ready:
            sequence.take_prepared()
        return ready

    def _with_drafts(self, decode: list[Chunk]) -> list[Chunk]:
        """With tokens that may come next, where to verify them costs next to nothing."""
        room = speculation.room(len(decode)) if self._forward.ragged and decode else 0
        if not room:
            return decode
        drafts = [chunk.sequence.draft(room) if chunk.sequence.plain else () for chunk in decode]
        return [
            Chunk(chunk.sequence, 1, draft, 1 + len(draft))
            for chunk, draft in zip(decode, drafts, strict=True)
        ]

    def _advance(self, chunks: list[Chunk]) -> list[Output]:
        """Run the model over the next tokens of some sequences; draw where none is left."""
        drawn = [chunk for chunk in chunks if chunk.wanted]
        constraints = [c.sequence.constraint for c in drawn if c.sequence.constraint]
        masks = self._constraints.compute(constraints) if constraints else None
        logits = self._forward([chunk.step for chunk in chunks])
        for chunk in chunks:
            chunk.sequence.cached += chunk.count
        if masks is not None:
            masks.result()
        with torch.inference_mode():
            sequences = [chunk.sequence for chunk in drawn for _ in range(chunk.wanted)]
            logprobs = Logprobs(logits, sequences, self._vocabulary)
            token_ids = self._forward.sample(logits, sequences)
            told = logprobs.of(token_ids)
        outputs, row = [], 0
        for chunk in drawn:
            end = row + chunk.wanted
            outputs.append(chunk.accept(token_ids[row:end], told.get(row)))
            row = end
        return outputs

    def _remove(self, sequence: Sequence) -> None:
        self._keep(sequence, at_least=BLOCK)
        self._running.remove(sequence)
        last = max((each.row for each in self._running), default=-1)
        if self._forward.ragged or last < sequence.row:
            return
        [moved] = [each for each in self._running if each.row == last]
        self._forward.move(last, sequence.row, moved.cached)
        moved.row = sequence.row

    def _chunks(self, prefilling: list[Sequence], budget: int) -> list[Chunk]:
        """What to prefill in one pass of at most `budget` tokens, first come first served.

        Where rows are padded to the longest, padding counts, and only the first prompt may be cut;
        else the last. One that begins like another in the pass waits for the next pass, and for
        what is known then.
        """
        chunks: list[Chunk] = []
        width = used = 0
        for sequence in prefilling:
            self._recall(sequence)
            if self._prefixes.bytes and any(_alike(chunk.sequence, sequence) for chunk in chunks):
                continue
            count = sequence.pending
            if self._forward.ragged or not chunks:
                count = min(count, budget - used)
            width = max(width, count)
            cost = used + count if self._forward.ragged else width * (len(chunks) + 1)
            if count == 0 or cost > budget:
                break
            chunks.append(Chunk(sequence, count, wanted=int(count == sequence.pending)))
            used += count
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
            sequence.kept = max(sequence.kept, sequence.cached // BLOCK * BLOCK)

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
