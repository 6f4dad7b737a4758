"""What an engine needs of whatever computes: logits, what is drawn from them, keys and values."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Protocol

from torch import Tensor

from worker.engine.cache import Step
from worker.engine.sequence import Sequence


class Forward(Protocol):
    """The forward pass of one model, with the slots' cache."""

    @property
    def ragged(self) -> bool:
        """Whether a pass costs what its tokens cost, however they are spread over the rows.

        If not, its rows are padded to the longest, and decoding covers all rows to the last.
        """
        ...

    @property
    def at_once(self) -> int:
        """How many tokens of prompts to compute in a pass where nobody waits for a next token."""
        ...

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values, [layers, rows, heads, columns, head size]: all in one, or in pieces.

        A model's layer is two of these: its keys, then its values. What lies in 16 columns,
        beginning at a multiple of 16, may be arranged in another way.
        """
        ...

    @property
    def vocabulary(self) -> int:
        """How many tokens there are logits for."""
        ...

    def __call__(self, steps: list[Step]) -> Tensor:
        """Add the steps' tokens to their rows.

        Returns:
            Logits behind the last tokens of each, as many as it wants: float [sum of wanted,
            vocabulary], valid until the next call, and the caller's to write to.
        """
        ...

    def sample(self, logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
        """Choose the next token of each sequence.

        `logits`, float [rows, vocabulary], has a row for each of them and may be written to.
        """
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row over another."""
        ...


class Successor(Forward, Protocol):
    """One that can go on in the middle of other ones' sequences."""

    def take_over(self, row: int, length: int, tensors: list[Tensor]) -> None:
        """Copy the first `length` tokens of a row out of another one's `tensors`."""
        ...
