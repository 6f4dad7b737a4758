"""The path for GPUs without one: attention in plain operations, and nothing is recorded."""

import copy
from typing import Any

import torch
from torch import Tensor

from tests.support.engines import options_of
from worker.engine import attention
from worker.engine.gpu.forward import PackedForward
from worker.engine.transformers import TransformersEngine


def packed_forward(model: Any, *, slots: int = 1, context: int = 256) -> PackedForward:
    """A copy of `model` on the packed path; `varlen_attention` must stand in for torch's."""
    attention.register()
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention.NAME)
    return PackedForward(model, slots=slots, context=context, record=lambda compute: compute)


def packed_engine(model: Any, decoder: Any, **changes: Any) -> TransformersEngine:
    options = options_of(model, decoder, **changes)
    forward = packed_forward(model, slots=options["slots"], context=options["context"])
    return TransformersEngine(forward, **options)


def varlen_attention(  # noqa: PLR0917  (torch's)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as its documentation has it.

    What belongs to no sequence is no number, as FlashAttention leaves it unwritten.
    """
    assert {cu_seq_q.dtype, cu_seq_k.dtype, seqused_k.dtype} == {torch.int32}
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1
    assert enable_gqa == (query.shape[1] != key.shape[1])
    output = torch.full_like(query, float("nan"))
    behind, ahead = window_size
    bounds = cu_seq_q.tolist()
    for begin, end, first, count in zip(
        bounds[:-1], bounds[1:], cu_seq_k.tolist(), seqused_k.tolist(), strict=False
    ):
        assert end - begin <= max_q
        assert count <= max_k
        if begin == end:
            continue
        # The last query stands at the last key.
        distance = torch.arange(count - (end - begin), count)[:, None] - torch.arange(count)
        mask = torch.ones_like(distance, dtype=torch.bool)
        if behind >= 0:
            mask &= distance <= behind
        if ahead >= 0:
            mask &= -distance <= ahead
        heads_first = (
            query[begin:end].transpose(0, 1),
            key[first : first + count].transpose(0, 1),
            value[first : first + count].transpose(0, 1),
        )
        attended = torch.nn.functional.scaled_dot_product_attention(
            *heads_first, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        output[begin:end] = attended.transpose(0, 1)
    return output
