"""Answers questions to tokenizers, beside the engine and without it."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared import names, tokenizing
from shared.errors import DecodeError, GenerationError, MiniVaultError
from shared.logging import get_logger
from shared.tokenizing import Answer, Question, Refusal, Text, Tokenize, Tokens
from worker.prompts import Tokenizer, TokenizerLoader
from worker.thread import SideThread

_POLL_SECONDS: Final = 0.5
"""How long one wait for a question may take: the time until a stop is seen."""
_PAUSE_SECONDS: Final = 0.5
"""While Redis is away."""
_MOST_LOADED: Final = 4
"""Tokenizers in memory, tens of megabytes each; the least recently used goes."""
_NICENESS: Final = 10
"""Where tokens are generated on the same cores, they come first."""


class Clerk(SideThread):
    """One thread with tokenizers of its own: libraries let only one use them at a time.

    They release the interpreter while they work, so a long text holds up no step of the engine.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        models: Callable[[], Sequence[str]],
        loader: TokenizerLoader,
        on_crash: Callable[[], None],
    ) -> None:
        """`models` are those that are served now."""
        super().__init__("clerk", on_crash)
        self._redis = redis
        self._models = models
        self._turns = count()
        self._loader = loader
        self._loaded: OrderedDict[str, Tokenizer] = OrderedDict()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Answer what was taken, and take no more. Whoever `join`s waits for that."""
        self._stopped.set()

    def run(self) -> None:
        _give_way()
        told = False
        while not self._stopped.is_set():
            try:
                self._serve_next()
                told = False
            except RedisError as error:
                if not told:  # an outage is told once
                    get_logger().warning("no questions without Redis", reason=str(error))
                told = True
                self._stopped.wait(_PAUSE_SECONDS)

    def _serve_next(self) -> None:
        # Redis looks at the lines in the order given: each comes first in turn.
        models = self._models()
        first = next(self._turns) % len(models)
        lines = [names.questions(model) for model in (*models[first:], *models[:first])]
        found = self._redis.blpop(lines, timeout=_POLL_SECONDS)
        if found is None:
            return
        _, popped = found
        assert isinstance(popped, bytes)
        question_id = popped.decode()
        raw = self._redis.getdel(names.question(question_id))
        if not isinstance(raw, bytes):  # nobody waits for it any more
            return
        try:
            question = tokenizing.decode_question(raw)
        except DecodeError as error:
            get_logger().warning("question dropped", reason=str(error))
            return
        answer = tokenizing.encode(self._answer(question))
        with self._redis.pipeline() as pipe:
            pipe.rpush(names.answer(question_id), answer)
            pipe.expire(names.answer(question_id), tokenizing.TTL)
            pipe.execute()

    def _answer(self, question: Question) -> Answer:
        try:
            tokenizer = self._tokenizer(question.model)
            if isinstance(question, Tokenize):
                tokens = tokenizer.tokens(question, add_special=question.add_special)
                return Tokens(tuple(tokens))
            return Text(tokenizer.text(question.tokens))
        except MiniVaultError as error:
            return Refusal(error.code, error.detail)
        except Exception:  # noqa: BLE001  (a library may stumble over one text, not over all)
            get_logger().exception("question failed", model=question.model)
            return Refusal(GenerationError.code, "The tokenizer failed; a worker's log says why.")

    def _tokenizer(self, model: str) -> Tokenizer:
        if model not in self._loaded:
            if len(self._loaded) >= _MOST_LOADED:
                self._loaded.popitem(last=False)
            self._loaded[model] = self._loader(model)
        self._loaded.move_to_end(model)
        return self._loaded[model]


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process that gives way
        thread = threading.get_native_id()
        niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
