"""CUDA graphs: the operations of a pass, recorded once and launched as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Compute: TypeAlias = Callable[[], Tensor]
"""Reads and writes the same memory each time, and returns the same tensor."""
Record: TypeAlias = Callable[[Compute], Compute]


class Graphs:
    """Records passes one after the other, which share the memory they compute in."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, compute: Compute) -> Compute:
        """What `compute` does, for what is in its memory whenever it is called.

        Raises:
            RuntimeError: it does something that can't be recorded, like waiting for a result.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute()  # allocates what is allocated once, and chooses kernels
        graph = torch.cuda.CUDAGraph()
        # Another model's thread may use the GPU meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
