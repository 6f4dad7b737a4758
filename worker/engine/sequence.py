"""One request inside an engine: its tokens, its text, and when it ends."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future

from shared.errors import MiniVaultError
from shared.events import FinishReason, TokenLogprobs
from worker.engine.base import EngineRequest, Output
from worker.engine.constraint import Constraint
from worker.engine.decoder import Decoder
from worker.engine.detokenizer import detokenizer
from worker.engine.speculation import Lookup
from worker.engine.stopping import StopStrings
from worker.engine.tally import Bias, Tally


class Sequence:
    """The state of a request between steps. `row` to `kept` belong to the engine."""

    def __init__(
        self,
        request: EngineRequest,
        *,
        decoder: Decoder,
        eos_ids: Collection[int],
        context: int,
    ) -> None:
        """`context` is the most tokens, prompt and output together, that fit a slot."""
        self.id = request.id
        self.salt = request.salt
        self.params = request.params
        self.prompt_length = len(request.prompt_ids)
        self.tokens = list(request.prompt_ids)
        self.row = 0
        """Row of the KV cache."""
        self.cached = 0
        """Leading tokens whose keys and values are in the cache."""
        self.recalled = 0
        """How many of these did not have to be computed, until that is told."""
        self.kept = 0
        """How many of these are stored for other requests, unless they were dropped since."""
        self.finish_reason: FinishReason | None = None
        self.error: MiniVaultError | None = None
        """Why it can't go on, if that is its finish reason."""
        self.preparing: Future[Constraint | None] | None = None
        """What has to be there before its first token."""
        self.constraint: Constraint | None = None
        self.bias = Bias(self.params.logit_bias) if self.params.logit_bias else None
        self.tally = Tally(self.tokens) if self.params.penalized else None
        self._lookup = Lookup()
        self._limit = min(request.params.max_tokens, context - self.prompt_length)
        self._eos_ids = eos_ids
        self._text = detokenizer(decoder, request.prompt_ids)
        self._stops = StopStrings(request.params.stop)
        self._published = 0
        self._replay(request)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens that the model has yet to see: 1 while decoding, more before that."""
        return len(self.tokens) - self.cached

    @property
    def is_ready(self) -> bool:
        return self.preparing is None or self.preparing.done()

    @property
    def plain(self) -> bool:
        """A token is drawn from logits alone, and nothing else is told of it."""
        return self.constraint is None and self.tally is None and self.params.logprobs is None

    def draft(self, most: int) -> list[int]:
        """At most so many tokens that may come next; one fewer than may still be generated."""
        return self._lookup.draft(self.tokens, min(most, self._limit - self.generated - 1))

    def verified(self, drafted: int, right: int) -> None:
        """Of so many drafted tokens so many were right."""
        self._lookup.verified(drafted, right)

    def take_prepared(self) -> None:
        """Go on with what was prepared; waits for it."""
        if self.preparing is None:
            return
        try:
            self.constraint = self.preparing.result()
        except MiniVaultError as error:
            self._fail(error)
        self.preparing = None
        if self.constraint is not None:
            self._follow(self.constraint)

    def accept(self, token_id: int, logprobs: TokenLogprobs | None = None) -> Output:
        """Take the next token and say what follows from it."""
        if self.constraint is not None and self.constraint.error is not None:
            self._fail(self.constraint.error)
            return self.last_output
        ids: tuple[int, ...] = ()
        text = ""
        if token_id in self._eos_ids:
            self.finish_reason = FinishReason.STOP
        else:
            ids = (token_id,)
            self.tokens.append(token_id)
            if self.tally is not None:
                self.tally.add(token_id)
            text, stopped = self._stops.push(self._text.push(token_id))
            if self.constraint is not None:
                self.constraint.accept(token_id)
                self._follow(self.constraint)
            if stopped:
                self.finish_reason = FinishReason.STOP
            elif not self.finish_reason and self.generated >= self._limit:
                self.finish_reason = FinishReason.LENGTH
        if self.finish_reason:
            text += self._stops.flush()
        return Output(
            self.id,
            ids,
            self._unpublished(text),
            self.finish_reason,
            logprobs=(logprobs,) if ids and logprobs else (),
            error=self.error,
            cached_tokens=self._tell_recalled(),
        )

    @property
    def last_output(self) -> Output:
        """Of a sequence that ends without another token."""
        return Output(self.id, finish_reason=self.finish_reason, error=self.error)

    def _follow(self, constraint: Constraint) -> None:
        """End where the grammar does."""
        if constraint.error is not None:
            self._fail(constraint.error)
        elif constraint.is_complete:
            self.finish_reason = FinishReason.STOP

    def _fail(self, error: MiniVaultError) -> None:
        self.finish_reason, self.error = FinishReason.ERROR, error

    def _tell_recalled(self) -> int:
        recalled, self.recalled = min(self.recalled, self.prompt_length), 0
        return recalled

    def _replay(self, request: EngineRequest) -> None:
        """Reach the state in which an earlier attempt published its last event.

        That attempt may have died between publishing what it held back and saying that it
        was done, so more text can be published than the tokens alone make certain.
        """
        replayed = "".join(self.accept(token_id).text for token_id in request.generated_ids)
        self._published = max(0, len(request.generated_text) - len(replayed))

    def _unpublished(self, text: str) -> str:
        dropped = min(self._published, len(text))
        self._published -= dropped
        return text[dropped:]
