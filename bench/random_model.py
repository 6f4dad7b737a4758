"""`python -m bench.random_model FOLDER`: a model to measure a GPU with, where none can be fetched.

A billion random weights, shaped like Llama 3.2 1B, with the default model's tokenizer. It says
nothing, and never the same twice, at the speed of one that does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from shared.catalog import load_catalog
from shared.configuration import load_settings

_SHAPE: Final = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "tie_word_embeddings": False,
}
_DEVIATION: Final = 0.05
"""Of the weights: with fewer, a greedy answer soon goes round in circles."""


def build(tokenizer: Any, **changes: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        **{**_SHAPE, **changes},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=_DEVIATION,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    whole: LlamaForCausalLM = model.to(torch.bfloat16)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.random_model", description=__doc__)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    settings = load_settings()
    known = load_catalog(settings)[settings.default_model].folder(settings)
    tokenizer = AutoTokenizer.from_pretrained(known, local_files_only=True)
    model = build(tokenizer)
    model.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    print(f"{arguments.folder}: {millions:,.0f} million weights")


if __name__ == "__main__":
    main()
