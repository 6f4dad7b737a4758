"""What a pass computes of one sequence."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass

from shared.events import TokenLogprobs
from worker.engine.base import Output
from worker.engine.cache import Step
from worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    sequence: Sequence
    count: int
    """How many of its tokens that the model has yet to see."""
    draft: Ids[int] = ()
    """Tokens that may come behind them."""
    wanted: int = 1
    """Behind how many tokens, counted from the last, logits are wanted. None: others are left."""

    @property
    def step(self) -> Step:
        start = self.sequence.cached
        tokens = [*self.sequence.tokens[start : start + self.count], *self.draft]
        return Step(self.sequence.row, start, tokens, self.wanted)

    def accept(self, drawn: Ids[int], logprobs: TokenLogprobs | None) -> Output:
        """Take the tokens that were drawn behind each of those wanted, as far as they count.

        One counts if all that was drafted before it was drawn, too. What the model has seen of the
        draft is in the cache then. `logprobs` are of the first.
        """
        sequence = self.sequence
        output = sequence.accept(drawn[0], logprobs)
        right = 0
        while (
            right < len(self.draft)
            and output.finish_reason is None
            and self.draft[right] == drawn[right]
        ):
            right += 1
            sequence.cached += 1
            more = sequence.accept(drawn[right])
            output = Output(
                output.id,
                output.ids + more.ids,
                output.text + more.text,
                more.finish_reason,
                cached_tokens=output.cached_tokens,
                error=more.error,
            )
        if self.draft:
            sequence.verified(len(self.draft), right)
        return output
