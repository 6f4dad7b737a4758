"""`python -m bench.architectures`: how far served logits are from those of models' own operations.

Small models of random weights, one of each architecture, each on the path that a worker would
choose for it: behind prompts of several lengths, behind one token of each at once, behind chunks
and single tokens in one pass, and behind a row that was moved. Made for GPUs, whose path tests
run without recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

import torch
import transformers
from torch import Tensor

from bench.report import machine, table
from shared.configuration import load_settings
from shared.settings import Settings
from worker.engine import attention
from worker.engine.cache import Step
from worker.engine.eager import EagerForward
from worker.engine.forward import Forward
from worker.models import context_of, device_and_dtype
from worker.paths import forward_of

_LENGTHS: Final = (17, 90, 300, 700)
"""Tokens of the prompts."""
_MORE: Final = (1, 5, 1, 60)
"""Tokens that follow each in one pass."""
_VOCABULARY: Final = 5000
_COMMON: Final[dict[str, Any]] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: Final = {"intermediate_size": 1024, "num_key_value_heads": 4, "initializer_range": 0.05}
_GEMMA: Final = {"head_dim": 64, "sliding_window": 64}
_ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Llama": ("llama", _GROUPED),
    "Mistral, a window of 64": ("mistral", {**_GROUPED, "sliding_window": 64}),
    "Qwen2, a window in half of its layers": (
        "qwen2",
        {**_GROUPED, "sliding_window": 48, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "Qwen3": ("qwen3", {**_GROUPED, "head_dim": 64}),
    "Gemma 2, capped scores": ("gemma2", _GROUPED | _GEMMA),
    "Gemma 3": ("gemma3_text", _GROUPED | _GEMMA),
    "GPT-2, learned positions": ("gpt2", {"initializer_range": 0.05}),
    "OPT, learned positions": ("opt", {"ffn_dim": 1024, "word_embed_proj_dim": 512}),
    "Phi-3": ("phi3", {**_GROUPED, "pad_token_id": 0}),
    "OLMo 2": ("olmo2", _GROUPED),
    "Mixtral, four experts": ("mixtral", {**_GROUPED, "num_local_experts": 4}),
}
"""transformers' name for each, and its own part of the configuration."""


def compared(kind: str, own: dict[str, Any], settings: Settings) -> list[str]:
    """The path that serves a model of random weights, and least cosines: cells of the table."""
    device, dtype = device_and_dtype(settings)
    auto: Any = transformers
    config = auto.AutoConfig.for_model(kind, **_COMMON, **own)
    torch.manual_seed(0)
    with device:
        model = auto.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention.NAME
        )
    model.eval().requires_grad_(False)
    context = context_of(config, settings)
    path, _ = forward_of(model, settings, context=context)
    eager = EagerForward(model, slots=settings.slots, context=context)
    dice = Random(1)
    texts = [dice.choices(range(5, _VOCABULARY), k=length + 100) for length in _LENGTHS]
    ends: tuple[int, ...] = _LENGTHS

    def alike(steps: Sequence[Step]) -> float:
        computed = path(list(steps)).clone()
        return _cosine(computed, _one_by_one(eager, steps))

    def next_tokens(counts: Sequence[int]) -> list[Step]:
        return [
            Step(row, ends[row], texts[row][ends[row] : ends[row] + count])
            for row, count in enumerate(counts)
        ]

    prompts = min(alike([Step(row, 0, texts[row][:end])]) for row, end in enumerate(ends))
    decoded = alike(next_tokens([1] * len(ends)))
    ends = tuple(end + 1 for end in ends)
    mixed = alike(next_tokens(_MORE))
    ends = tuple(end + more for end, more in zip(ends, _MORE, strict=True))
    last = next_tokens([1] * len(ends))
    path.move(1, len(ends), ends[1])
    elsewhere = Step(len(ends), ends[1], last[1].tokens)
    moved = _cosine(path([elsewhere]).clone(), _one_by_one(eager, [last[1]]))
    return [type(path).__name__, *(f"{each:.4f}" for each in (prompts, decoded, mixed, moved))]


def _one_by_one(eager: Forward, steps: Sequence[Step]) -> Tensor:
    return torch.cat([eager([step]).clone() for step in steps])


def _cosine(computed: Tensor, expected: Tensor) -> float:
    return float(
        torch.nn.functional.cosine_similarity(computed.float(), expected.float()).min().item()
    )


def main() -> None:
    settings = load_settings()
    attention.register()
    print(f"{machine()}; {device_and_dtype(settings)[1]}.")
    head = ["architecture", "served by", "prompts", "decoding", "both in one pass", "moved"]
    rows = ([name, *compared(*how, settings)] for name, how in _ARCHITECTURES.items())
    table(head, rows)


if __name__ == "__main__":
    main()
