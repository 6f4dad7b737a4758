"""Holds responses to grammars: which tokens may come next, worked out beside the forward pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Ids
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from shared.errors import InvalidGrammarError, MiniVaultError
from shared.grammars import matcher, raise_for
from shared.job import Grammar, SamplingParams
from worker.engine.vocabulary import Vocabulary

_KEPT: Final = 64
"""Grammars that need not be compiled again. One of a schema takes a few hundred kB."""


class Constraint:
    """One response's place in its grammar."""

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        """`size` is how many tokens there are."""
        self._matcher = matcher
        self.size = size
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)
        self.address = self._bits.ctypes.data
        """Of what was computed, as 32-bit words: a bit for each token, the lowest first."""

    @property
    def is_complete(self) -> bool:
        """Nothing may follow."""
        return self._matcher.is_stopped()

    @property
    def error(self) -> MiniVaultError | None:
        """Why it can't be followed any further: it became too complex on the way."""
        try:
            raise_for(self._matcher)
        except InvalidGrammarError as error:
            return error
        return None

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, an end among them where it may end: [size], as computed."""
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        return bits.view(np.bool_)

    def compute(self) -> None:
        """Work out `allowed`. Does not hold the interpreter's lock."""
        self._matcher.unsafe_compute_mask_ptr(self.address, self._bits.nbytes)

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)


class Constraints:
    """A model's grammars, compiled once, on a thread beside the engine's.

    What may come next depends on the tokens so far alone, so another thread works it out while
    the model computes. Neither thread calls torch, whose own threads would wait for each other.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        """At their beginnings; least recently used first."""

    def prepare(
        self, params: SamplingParams, generated: Ids[int]
    ) -> Future[Constraint | None] | None:
        """What a request needs before its first token; None if that is nothing.

        Its result is the constraint behind the tokens `generated`, if it has one.
        """
        if params.grammar is not None:
            return self._compiling.submit(self._constraint, params.grammar, tuple(generated))
        if params.logprobs is not None:
            return self._compiling.submit(self._no_constraint)
        return None

    def compute(self, constraints: Ids[Constraint]) -> Future[None]:
        """Begin to work out what each of them allows."""
        return self._computing.submit(_compute, constraints)

    def _constraint(self, grammar: Grammar, generated: tuple[int, ...]) -> Constraint:
        start = self._compiled.get(grammar)
        if start is None:
            start = self._compiled[grammar] = matcher(grammar, self._vocabulary.tokens)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        mine = start.deep_copy()
        mine.consume_tokens(list(generated))
        return Constraint(mine, self._vocabulary.tokens.vocab_size)

    def _no_constraint(self) -> None:
        """The tokens' bytes alone."""
        self._vocabulary.raw(0)


def _compute(constraints: Ids[Constraint]) -> None:
    for constraint in constraints:
        constraint.compute()
