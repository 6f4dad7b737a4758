"""Questions to a model's tokenizer, which some worker has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from redis.asyncio import Redis

from api.deadline import in_time
from api.errors import NoWorkerError, refusal
from shared import names, scripts, tokenizing
from shared.errors import QueueFullError, TooManyInFlightError
from shared.queue import workers_async
from shared.tokenizing import TTL, Answer, Detokenize, Question, Refusal, Text, Tokenize, Tokens

_AT_ONCE: Final = 16
"""Questions that this process has under way: each holds a connection to Redis."""
_PER_CLIENT: Final = 4
_MOST_WAITING: Final = 64
"""Questions of a model, of all processes, that no worker has taken yet."""
_WAIT_SECONDS: Final = 1.0

T = TypeVar("T", Tokens, Text)


class Tokenizers:
    """Takes no permit of the rate limit: who counts before asking should not pay for it twice."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ask = scripts.load_async(redis, "ask")
        self._asking: Counter[str] = Counter()

    async def tokens(self, question: Tokenize, client: str) -> tuple[int, ...]:
        """What a prompt is to its model.

        Raises:
            NoWorkerError: no live worker serves the model, or none has answered in time.
            QueueFullError: too many questions wait.
            TooManyInFlightError: too many of this client's do.
            RedisUnavailableError: nobody can be asked.
            MiniVaultError: the worker refuses the question; see `worker.prompts.Tokenizer`.
        """
        return (await self._answered(question, client, Tokens)).tokens

    async def text(self, question: Detokenize, client: str) -> str:
        """The text that tokens stand for. Raises as `tokens`."""
        return (await self._answered(question, client, Text)).text

    async def _answered(self, question: Question, client: str, kind: type[T]) -> T:
        with self._turn(client):
            answer = await self._answer(question)
        if isinstance(answer, Refusal):
            raise refusal(answer.code, answer.message)
        assert isinstance(answer, kind)
        return answer

    @contextmanager
    def _turn(self, client: str) -> Iterator[None]:
        if self._asking[client] >= _PER_CLIENT:
            raise TooManyInFlightError(
                f"{_PER_CLIENT} of your texts are being tokenized; no more are taken."
            )
        if self._asking.total() >= _AT_ONCE:
            raise QueueFullError("Too many texts are being tokenized; no more are taken.")
        self._asking[client] += 1
        try:
            yield
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]

    async def _answer(self, question: Question) -> Answer:
        question_id, model = tokenizing.new_question_id(), question.model
        async with in_time():
            if not any(model in worker.models for worker in await workers_async(self._redis)):
                raise NoWorkerError(f"No live worker serves the model {model}.")
            accepted = await self._ask(
                keys=[names.questions(model), names.question(question_id)],
                args=[question_id, tokenizing.encode(question), _MOST_WAITING, TTL],
            )
        if not accepted:
            raise QueueFullError("Too many texts wait to be tokenized; no more are taken.")
        ends_at = asyncio.get_running_loop().time() + TTL
        while asyncio.get_running_loop().time() < ends_at:
            async with in_time():
                found = await self._redis.blpop([names.answer(question_id)], _WAIT_SECONDS)
            if found is not None:
                _, raw = found
                assert isinstance(raw, bytes)
                return tokenizing.decode_answer(raw)
        raise NoWorkerError("No worker has answered in time.")
