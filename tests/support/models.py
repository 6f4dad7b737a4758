"""Models for tests: the real one, converted once a checkout, and tiny random ones."""

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
    """Give a data folder the real model without converting it again, and its kernels."""
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    real = real_model_folder()
    kernels = real.with_name(".kernels")
    kernels.mkdir(exist_ok=True)
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
