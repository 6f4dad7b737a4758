"""Whether logits are the same bits, whatever happens around a request."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from shared.job import SamplingParams
from tests.support.engines import greedy, request, run
from worker.engine.base import EngineRequest, Output
from worker.engine.cache import Step
from worker.engine.chunk import Chunk
from worker.engine.forward import Forward
from worker.engine.transformers import TransformersEngine

Text: TypeAlias = tuple[int, ...]
Bits: TypeAlias = defaultdict[Text, list[int]]
"""Hashes of the logits behind each text, one for each time it was computed."""


class Noted:
    """A forward pass that tells what it was asked and has answered."""

    def __init__(self, forward: Forward, note: Callable[[list[Step], Tensor], None]) -> None:
        self._forward = forward
        self._note = note

    def __call__(self, steps: list[Step]) -> Tensor:
        logits = self._forward(steps)
        self._note(steps, logits)
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)


def recorded(monkeypatch: pytest.MonkeyPatch) -> Bits:
    """What all engines compute from now on."""
    seen: Bits = defaultdict(list)
    advance = TransformersEngine._advance

    def note(chunks: list[Chunk], logits: Tensor) -> None:
        row = 0
        for chunk in chunks:
            text = [*chunk.sequence.tokens[: chunk.sequence.cached], *chunk.step.tokens]
            for left in range(chunk.wanted)[::-1]:
                seen[tuple(text[: len(text) - left])].append(hash(logits[row].numpy().tobytes()))
                row += 1

    def advance_and_note(engine: TransformersEngine, chunks: list[Chunk]) -> list[Output]:
        forward = engine._forward
        engine._forward = Noted(forward, lambda _, logits: note(chunks, logits))
        try:
            return advance(engine, chunks)
        finally:
            engine._forward = forward

    monkeypatch.setattr(TransformersEngine, "_advance", advance_and_note)
    return seen


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def exercise(engine: Any, prompts: Mapping[str, Sequence[int]], tokens: int) -> set[Text]:
    """Run each prompt alone, in company that comes and goes, and resumed at every token.

    Returns:
        The texts behind which each time a token was drawn.
    """
    alone = {
        name: run(engine, [request(name, ids, greedy(tokens))])[name].ids
        for name, ids in prompts.items()
    }
    for join_every in (0, 1, 3):
        # Lengths differ, so that the rows left behind are moved and odd numbers of them run.
        company = [
            request(name, ids, greedy(tokens - i % 3))
            for i, (name, ids) in enumerate(prompts.items())
        ]
        run(engine, company, join_every=join_every)
    for cut in range(1, tokens):
        resumed = [
            request(name, ids, greedy(cut + 1), generated_ids=tuple(alone[name][:cut]))
            for name, ids in prompts.items()
        ]
        run(engine, resumed)
        run(engine, resumed[cut % 2 :: 2], join_every=1)
    return {
        (*ids, *alone[name][:count]) for name, ids in prompts.items() for count in range(tokens)
    }


def differing(bits: Bits, met: Iterable[Text] = ()) -> list[Text]:
    """Where the logits were not the same bits each time; none of `met` was met only once."""
    assert all(len(bits[text]) > 1 for text in met)
    return [text for text, times in bits.items() if len(set(times)) > 1]


class Crowd:
    """Requests that come and go by chance; one that is cancelled comes back and goes on."""

    def __init__(self, engine: Any, seed: int) -> None:
        self._engine = engine
        self._dice = random.Random(seed)
        self.said: dict[str, list[int]] = {}
        self._running: dict[str, EngineRequest] = {}

    def run(self, requests: Mapping[str, tuple[Sequence[int], SamplingParams]]) -> None:
        """Until all have ended; `said` is what they said."""
        waiting = list(requests)
        self.said = {name: [] for name in requests}
        while waiting or self._running:
            self._dice.shuffle(waiting)
            while waiting and self._engine.free_slots and self._dice.random() < 0.3:
                name = waiting.pop()
                again = request(name, *requests[name], generated_ids=tuple(self.said[name]))
                self._running[name] = again
                self._engine.add(again)
            if self._running and self._dice.random() < 0.05:
                gone = self._dice.choice(list(self._running))
                self._engine.cancel(gone)
                del self._running[gone]
                waiting.append(gone)
            for output in self._engine.step() if self._engine.has_work else ():
                self.said[output.id] += output.ids
                if output.finish_reason:
                    del self._running[output.id]
