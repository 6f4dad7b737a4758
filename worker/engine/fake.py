"""An engine without a model, for tests of everything around engines."""

from __future__ import annotations

import time
from collections.abc import Sequence as Ids
from typing import Final

from worker.engine.base import EngineRequest, Output
from worker.engine.draw import uniform
from worker.engine.sequence import Sequence

EOS: Final = 0
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz     "


class CodePoints:
    """A tokenizer whose tokens are code points."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(ord(character) for character in text)

    def decode(self, ids: Ids[int]) -> str:
        return "".join(chr(token_id) for token_id in ids if token_id != EOS)


class FakeEngine:
    """Greedy requests get their prompt back; others get letters drawn from their seed.

    One token a step for every request, so batching, joining and leaving can be watched.
    `step_seconds` is how long a step pretends to compute.
    """

    kv_bytes = 0
    kv_usage = 0.0
    prefix_bytes = 0

    def __init__(self, *, slots: int = 4, context: int = 4096, step_seconds: float = 0) -> None:
        self.batch_sizes: list[int] = []
        """How many requests each step advanced."""
        self._slots = slots
        self._context = context
        self._step_seconds = step_seconds
        self._running: dict[str, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._running)

    def add(self, request: EngineRequest) -> None:
        self._running[request.id] = Sequence(
            request, decoder=CodePoints(), eos_ids={EOS}, context=self._context
        )

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def step(self) -> list[Output]:
        time.sleep(self._step_seconds)
        self.batch_sizes.append(len(self._running))
        outputs = [_advance(sequence) for sequence in self._running.values()]
        for output in outputs:
            if output.finish_reason:
                del self._running[output.id]
        return outputs


def _advance(sequence: Sequence) -> Output:
    if sequence.finish_reason:
        return Output(sequence.id, finish_reason=sequence.finish_reason)
    position = sequence.generated
    if not sequence.params.greedy:
        drawn = uniform(sequence.params.seed, position)
        return sequence.accept(ord(_ALPHABET[int(drawn * len(_ALPHABET))]))
    prompt = sequence.tokens[: sequence.prompt_length]
    return sequence.accept(prompt[position] if position < len(prompt) else EOS)
