"""Attention over the packed cache: each token costs what its own sequence is long."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from worker.engine.gpu.inputs import Placement


def packed_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    placement: Placement,
    window: int | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_options: Any,
) -> Tensor:
    """Of `query`, [1, heads, tokens, size], over all cells, [cells, key heads, size].

    Returns:
        [1, tokens, heads, size].

    Raises:
        ValueError: FlashAttention has no such attention.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("capped scores and sinks")
    # A single token sees all there is, and that it is the last need not be said. FlashAttention
    # shares a sequence's keys out among more of the GPU then (split-KV).
    ahead = -1 if placement.longest == 1 and window is None else 0
    output = varlen_attn(
        query[0].transpose(0, 1),
        keys,
        values,
        placement.query_starts,
        placement.key_starts,
        placement.longest,
        placement.columns,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, ahead),
        enable_gqa=query.shape[1] != keys.shape[1],
        seqused_k=placement.key_counts,
    )
    assert isinstance(output, Tensor)
    return output[None]
