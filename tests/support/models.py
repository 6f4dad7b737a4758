"""Models for tests: the real one, converted once a checkout, and tiny random ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from shared.catalog import load_catalog
from shared.configuration import load_settings
from shared.settings import Settings

CACHE: Final = Path(__file__).parents[2] / ".cache" / "tests"
REAL: Final = "smollm2-135m"


def real_model_folder() -> Path:
    """SmolLM2, fetched and converted as `minivault models pull` does it."""
    from worker.model_files import ensure_model

    settings = load_settings(data_dir=CACHE)
    settings.prepare_data_dir()
    return ensure_model(load_catalog(settings)[REAL], settings, lambda *_: None)


def seed_real_model(settings: Settings) -> None:
    """Give a data folder the real model and its kernels without making either again.

    With the kernels there from the start, every worker says the same.
    """
    from tests.support.kernels import compiled

    settings.models_dir.mkdir(parents=True, exist_ok=True)
    real, kernels = real_model_folder(), compiled()
    (settings.models_dir / REAL).symlink_to(real)
    (settings.models_dir / kernels.name).symlink_to(kernels)


class NoText:
    """A decoder for models without a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        return "".join(f"<{token_id}>" for token_id in ids)


def tiny_llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _build(LlamaForCausalLM, LlamaConfig(**{**_SHAPE, "num_key_value_heads": 2, **changes}))


def tiny_gpt2() -> Any:
    """Learned positions, no grouped heads."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=256,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _build(GPT2LMHeadModel, config)


def tiny_gemma3() -> Any:
    """Sliding windows of 16 tokens in two of three layers, each kind with its own rotation."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        **_SHAPE,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    return _build(Gemma3ForCausalLM, config)


def tiny_gemma2() -> Any:
    """Capped scores, in attention and at the end."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **_SHAPE,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=10.0,
    )
    return _build(Gemma2ForCausalLM, config)


def native_llama(**changes: Any) -> Any:
    """With each bias that there can be, and a rotation that is stretched."""
    from transformers import LlamaConfig, LlamaForCausalLM

    stretched = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    config = LlamaConfig(
        **{
            **_NATIVE,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": stretched,
            **changes,
        }
    )
    return _build_gently(LlamaForCausalLM, config)


def native_mistral(**changes: Any) -> Any:
    """A sliding window of 21 tokens in all layers."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(**{**_NATIVE, "sliding_window": 21, **changes})
    return _build_gently(MistralForCausalLM, config)


def native_qwen2(**changes: Any) -> Any:
    """Biases of queries, keys and values; a window of 16 tokens in the last two of three layers."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    return _build_gently(Qwen2ForCausalLM, Qwen2Config(**{**_NATIVE, **window, **changes}))


def native_qwen3(**changes: Any) -> Any:
    """Norms of queries and keys; heads of 128, and an output that is the embeddings'."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"head_dim": 128, "tie_word_embeddings": True}
    return _build_gently(Qwen3ForCausalLM, Qwen3Config(**{**_NATIVE, **shape, **changes}))


NATIVE: Final[dict[str, Callable[..., Any]]] = {
    "llama": native_llama,
    "mistral": native_mistral,
    "qwen2": native_qwen2,
    "qwen3": native_qwen3,
}
"""Tiny models that our kernels take."""

_NATIVE: Final = {
    "vocab_size": 261,
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""The heads are wider together than the rest, and the last outputs fill no block."""

_SHAPE: Final = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _build(model_class: Any, config: Any) -> Any:
    """Random weights, wide enough that the next token is never a matter of rounding."""
    import torch

    torch.manual_seed(7)
    config.initializer_range = 0.4
    model = model_class(config).float().eval()
    model.generation_config.eos_token_id = config.eos_token_id
    return model


def _build_gently(model_class: Any, config: Any) -> Any:
    """Random weights that leave int8 close to float32; nothing in them is 0 or 1 by default."""
    import torch

    torch.manual_seed(7)
    config.initializer_range = 0.1
    model = model_class(config).float().eval()
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.ndim == 1:
                each.copy_(torch.randn_like(each) * 0.4 + (0.0 if "bias" in name else 1.0))
    model.generation_config.eos_token_id = config.eos_token_id
    return model
