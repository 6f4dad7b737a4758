"""Which models the kernels can compute: those built like Llama."""

from __future__ import annotations

from typing import Any, Final

_KINDS: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_WIDTHS: Final = 64
"""Everything is a multiple of it: a Hadamard matrix's order, and what attention sums at a time."""
_CHANGING_ROTATIONS: Final = frozenset({"dynamic", "longrope"})
"""These depend on how long a text has become."""


def takes(config: Any) -> bool:
    """Whether a model with this configuration, a transformers one, can be computed."""
    if config.model_type not in _KINDS:  # others need not even have the fields
        return False
    rotation = getattr(config, "rope_parameters", None) or {}
    widths = (config.hidden_size, config.intermediate_size, head_size(config))
    return (
        config.hidden_act == "silu"
        and all(width % _WIDTHS == 0 for width in widths)
        and rotation.get("rope_type", "default") not in _CHANGING_ROTATIONS
        and rotation.get("partial_rotary_factor", 1.0) == 1.0
    )


def head_size(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def window_of(config: Any, layer: int) -> int:
    """How many tokens a layer sees, the newest included; 0: all."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[layer] != "sliding_attention":
        return 0
    return int(window or 0)
