"""How large a KV cache gets, from a model's configuration alone."""

from __future__ import annotations

from typing import Any, Final

from worker.engine.blocks import BLOCK
from worker.engine.cache import ROWS, aligned, keys_read

_HALF: Final = 2


def kv_bytes(config: Any, slots: int, context: int, itemsize: int) -> int:
    """Bytes of a `SlotCache` once every layer has its keys and values. `context` in tokens."""
    cells = aligned(slots, ROWS) * keys_read(context + 1)
    return cells * _token_bytes(config, itemsize)


def native_kv_bytes(config: Any, slots: int, context: int) -> int:
    """Bytes that a `NativeForward` keeps for keys and values. `context` in tokens."""
    return slots * aligned(context, BLOCK) * _token_bytes(config, _HALF)


def packed_scratch(config: Any, slots: int, tokens: int) -> int:
    """Bytes that passes of so many tokens compute with on a GPU, in half precision, at most."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    logits = (_HALF + 4) * config.vocab_size * (slots + ROWS)
    return int(_HALF * tokens * (8 * config.hidden_size + 4 * inner) + logits)


def _token_bytes(config: Any, itemsize: int) -> int:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kv_heads * head_size * itemsize)
