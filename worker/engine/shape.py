"""How large a KV cache gets, from a model's configuration alone."""

from __future__ import annotations

from typing import Any

from worker.engine.cache import ROWS, aligned, keys_read


def kv_bytes(config: Any, slots: int, context: int, itemsize: int) -> int:
    """Bytes of a `SlotCache` once every layer has its keys and values. `context` in tokens."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    cells = aligned(slots, ROWS) * keys_read(context + 1) * kv_heads * head_size
    return int(2 * config.num_hidden_layers * cells * itemsize)
