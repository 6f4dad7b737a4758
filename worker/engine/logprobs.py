"""Log probabilities of drawn tokens and of the likeliest ones, for the requests that ask."""

from __future__ import annotations

from collections.abc import Sequence as Rows

from torch import Tensor

from shared.events import Logprob, TokenLogprobs
from worker.engine.sequence import Sequence
from worker.engine.vocabulary import Vocabulary


class Logprobs:
    """By the model alone: taken before a sampler has changed the logits."""

    def __init__(self, logits: Tensor, sequences: Rows[Sequence], vocabulary: Vocabulary) -> None:
        """`logits` is float [rows, vocabulary], with one of `sequences` for each row."""
        self._vocabulary = vocabulary
        self._rows = [i for i, each in enumerate(sequences) if each.params.logprobs is not None]
        self._counts = [sequences[i].params.logprobs or 0 for i in self._rows]
        if self._rows:  # a copy, so it stays as it is
            self._values = logits[self._rows].float().log_softmax(dim=-1)

    def of(self, token_ids: Rows[int]) -> dict[int, TokenLogprobs]:
        """By row, where they were asked for; `token_ids` has what was drawn in each row."""
        if not self._rows:
            return {}
        most = min(max(self._counts), self._values.shape[-1])
        values, ids = (each.tolist() for each in self._values.topk(most, dim=-1))
        drawn = [token_ids[row] for row in self._rows]
        picked = self._values[range(len(drawn)), drawn].tolist()
        return {
            row: TokenLogprobs(
                self._told(drawn[i], picked[i]),
                tuple(map(self._told, ids[i][:count], values[i][:count])),
            )
            for i, (row, count) in enumerate(zip(self._rows, self._counts, strict=True))
        }

    def _told(self, token_id: int, logprob: float) -> Logprob:
        return Logprob(token_id, self._vocabulary.raw(token_id), logprob)
