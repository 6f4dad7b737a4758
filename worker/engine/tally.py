"""Numbers for some of a vocabulary's tokens, as samplers read them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping


class Bias:
    """What a request adds to tokens' logits."""

    def __init__(self, by_id: Mapping[int, float]) -> None:
        self.ids = array("i", by_id)
        """int32."""
        self.values = array("f", by_id.values())
        """float32."""


class Tally:
    """How often a sequence has each of its tokens: what penalties are taken of.

    Kept up token by token, so that a step costs as much as there are distinct tokens.
    """

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self.ids = array("i", dict.fromkeys(prompt_ids))
        """Of prompt and answer, each once; int32."""
        self.times = array("f", bytes(4 * len(self.ids)))
        """How often the answer has each of them; float32."""
        self._places = {token_id: place for place, token_id in enumerate(self.ids)}

    def add(self, token_id: int) -> None:
        """Count one more token of the answer."""
        place = self._places.setdefault(token_id, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token_id)
            self.times.append(0)
        self.times[place] += 1
