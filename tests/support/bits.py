"""Whether logits are the same bits, whatever happens around a request."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from shared.job import SamplingParams
from tests.support.engines import greedy, request, run
from worker.engine import transformers
from worker.engine.base import EngineRequest
from worker.engine.sampler import sample

Bits = defaultdict[tuple[str, int], list[int]]
"""Hashes of the logits behind each token of each request, one for each time it was drawn."""


def recorded(monkeypatch: pytest.MonkeyPatch) -> Bits:
    """What all engines draw from, from now on."""
    seen: Bits = defaultdict(list)

    def recording(logits: Any, sequences: Sequence[Any]) -> list[int]:
        for row, sequence in zip(logits, sequences, strict=True):
            seen[sequence.id, sequence.generated].append(hash(row.numpy().tobytes()))
        return sample(logits, sequences)

    monkeypatch.setattr(transformers, "sample", recording)
    return seen


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def exercise(engine: Any, prompts: Mapping[str, Sequence[int]], tokens: int) -> None:
    """Run each prompt alone, in company that comes and goes, and resumed at every token."""
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


def differing(bits: Bits, tokens: int) -> list[tuple[str, int]]:
    """Where the logits were not the same bits each time; none was met only once."""
    assert {position for _, position in bits} == set(range(tokens))
    assert min(len(times) for times in bits.values()) > 1
    return [where for where, times in bits.items() if len(set(times)) > 1]


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
