"""Attention over the slot cache, for every architecture that asks transformers' interface.

Registered under a name of our own. For a name without a mask function transformers builds
no mask, so each layer reaches us with its own window and the step's `Placement` decides
what it sees: full and sliding layers, of any model, need no code of their own.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from worker.engine.cache import ROWS, Placement
from worker.engine.gpu import inputs as gpu

NAME: Final = "minivault_slots"


def register() -> None:
    """Make the name known to transformers; before a model is loaded with it."""
    AttentionInterface.register(NAME, _attention)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  (never built for our name)
    *,
    placement: Placement | gpu.Placement,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """By the cache that `key` and `value` are of; no weights are returned."""
    options["window"] = sliding_window or getattr(module, "sliding_window", None)
    if isinstance(placement, gpu.Placement):
        from worker.engine.gpu.attention import (  # noqa: PLC0415  (imports torch's compiler: 1 s)
            packed_attention,
        )

        return packed_attention(query, key, value, placement=placement, **options), None
    return slot_attention(query, key, value, placement=placement, **options), None


def slot_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    placement: Placement,
    window: int | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_options: Any,
) -> Tensor:
    """Attention of [batch, heads, width, size] over [batch, key heads, length, size].

    Grouped-query models keep their key heads uncopied: for a single new token the query
    heads of a group become rows of one small matrix, filled up to a multiple of `ROWS`; for
    more tokens SDPA's own grouping does it.

    Returns:
        [batch, width, heads, size].
    """
    mask = placement.mask(window)
    if softcap is not None or s_aux is not None:
        return _explicit(
            query, key, value, mask=mask, scaling=scaling, softcap=softcap, sinks=s_aux
        )
    batch, heads, width, size = query.shape
    groups = heads // key.shape[1]
    if width == 1:
        packed = query.reshape(batch, key.shape[1], groups, size)
        filled = nn.functional.pad(packed, (0, 0, 0, -groups % ROWS))
        output = nn.functional.scaled_dot_product_attention(
            filled, key, value, attn_mask=mask, scale=scaling
        )[:, :, :groups].reshape(batch, heads, width, value.shape[-1])
    else:
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=groups > 1
        )
    return output.transpose(1, 2).contiguous()


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same in plain operations, for what SDPA has no argument for.

    `softcap` bounds the scores (Gemma 2); `sinks`, one a head, take probability that no
    value receives (gpt-oss).
    """
    width, groups = query.shape[2], query.shape[1] // key.shape[1]
    query = nn.functional.pad(query, (0, 0, 0, -width % ROWS))
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return (weights @ value)[:, :, :width].transpose(1, 2).contiguous()
