"""An engine without a model, for tests of everything around engines."""

from __future__ import annotations

import time
from collections.abc import Sequence as Ids
from typing import Final

from shared.events import Logprob, TokenLogprobs
from shared.grammars import BYTES_EOS, byte_tokenizer
from worker.engine.base import EngineRequest, Output
from worker.engine.constraint import Constraint, Constraints
from worker.engine.draw import uniform
from worker.engine.sequence import Sequence
from worker.engine.vocabulary import Vocabulary

EOS: Final = BYTES_EOS
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz     "
_SHORTEST: Final = bytes([EOS]) + b'"}]0123456789' + _ALPHABET.encode() + bytes(range(1, 256))
"""What to say where a grammar leaves a choice, so that it comes to an end."""


class CodePoints:
    """A tokenizer whose tokens are code points."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(ord(character) for character in text)

    def decode(self, ids: Ids[int]) -> str:
        return "".join(chr(token_id) for token_id in ids if token_id != EOS)


class FakeEngine:
    """Greedy requests get their prompt back; others get letters drawn from their seed.

    A grammar is followed in the shortest way, in ASCII. `logit_bias` is ignored, and log
    probabilities are those of the letters.

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
        self._constraints = Constraints(Vocabulary(byte_tokenizer, CodePoints()))
        self._running: dict[str, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._running)

    def add(self, request: EngineRequest) -> None:
        sequence = Sequence(request, decoder=CodePoints(), eos_ids={EOS}, context=self._context)
        sequence.preparing = self._constraints.prepare(request.params, request.generated_ids)
        self._running[request.id] = sequence

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
    sequence.take_prepared()
    if sequence.finish_reason:
        return sequence.last_output
    if sequence.constraint is not None:
        token_id = _shortest(sequence.constraint)
    elif sequence.params.greedy:
        prompt = sequence.tokens[: sequence.prompt_length]
        token_id = prompt[sequence.generated] if sequence.generated < len(prompt) else EOS
    else:
        drawn = uniform(sequence.params.seed, sequence.generated)
        token_id = ord(_ALPHABET[int(drawn * len(_ALPHABET))])
    return sequence.accept(token_id, _logprobs(token_id, sequence.params.logprobs))


def _shortest(constraint: Constraint) -> int:
    constraint.compute()
    allowed = constraint.allowed
    return next(token_id for token_id in _SHORTEST if allowed[token_id])


def _logprobs(token_id: int, count: int | None) -> TokenLogprobs | None:
    if count is None:
        return None
    likeliest = [token_id, *(ord(letter) for letter in _ALPHABET if ord(letter) != token_id)]
    told = [Logprob(each, chr(each).encode(), -float(i)) for i, each in enumerate(likeliest)]
    return TokenLogprobs(told[0], tuple(told[:count]))
