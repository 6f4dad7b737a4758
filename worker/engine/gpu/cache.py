"""Keys and values of all layers in one tensor, a token's heads beside one another."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache

from worker.engine.gpu.inputs import Grid, Placement


class PackedCache(Cache):
    """[layers, cells, heads, head size]; a model's layer is two of these: keys, then values.

    A `transformers.Cache` as far as attention layers use one. Allocated with the first key, in the
    shape that the model gives it.
    """

    def __init__(self, layers: int, grid: Grid) -> None:
        """`layers` of the model."""
        super().__init__(layers=[])
        self._layers = layers
        self._grid = grid
        self._stored: Tensor | None = None
        self.placement: Placement | None = None
        """Of the pass that is being computed."""

    @property
    def tensor(self) -> Tensor:
        """[layers, rows, heads, columns, head size]."""
        assert self._stored is not None, "nothing has been computed"
        layers, _, heads, size = self._stored.shape
        rows, columns = self._grid
        cells = self._stored[:, : self._grid.spare]
        return cells.view(layers, rows, columns, heads, size).transpose(2, 3)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store [1, heads, tokens, size] and return all cells, [cells, heads, size].

        Raises:
            ValueError: the model's layers differ in shape.
        """
        assert self.placement is not None, "an input comes before a pass"
        _, heads, _, size = key_states.shape
        if self._stored is None:
            shape = (2 * self._layers, self._grid.spare + 1, heads, size)
            self._stored = key_states.new_zeros(shape)
        if {key_states.shape[1::2], value_states.shape[1::2]} != {self._stored.shape[2:]}:
            raise ValueError("layers differ in their heads")
        keys, values = self._stored[2 * layer_idx], self._stored[2 * layer_idx + 1]
        keys.index_copy_(0, self.placement.cells, key_states[0].transpose(0, 1))
        values.index_copy_(0, self.placement.cells, value_states[0].transpose(0, 1))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        """Always 0: positions are given explicitly."""
        return 0
