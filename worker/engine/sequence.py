"""One request inside an engine: its tokens, its text, and when it ends."""

from __future__ import annotations

from collections.abc import Collection

from shared.events import FinishReason
from worker.engine.base import EngineRequest, Output
from worker.engine.detokenizer import Decoder, Detokenizer
from worker.engine.stopping import StopStrings


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
        self._limit = min(request.params.max_tokens, context - self.prompt_length)
        self._eos_ids = eos_ids
        self._text = Detokenizer(decoder, request.prompt_ids)
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

    def accept(self, token_id: int) -> Output:
        """Take the next token and say what follows from it."""
        ids: tuple[int, ...] = ()
        text = ""
        if token_id in self._eos_ids:
            self.finish_reason = FinishReason.STOP
        else:
            ids = (token_id,)
            self.tokens.append(token_id)
            text, stopped = self._stops.push(self._text.push(token_id))
            if stopped:
                self.finish_reason = FinishReason.STOP
            elif self.generated >= self._limit:
                self.finish_reason = FinishReason.LENGTH
        if self.finish_reason:
            text += self._stops.flush()
        return Output(
            self.id,
            ids,
            self._unpublished(text),
            self.finish_reason,
            cached_tokens=self._tell_recalled(),
        )

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
