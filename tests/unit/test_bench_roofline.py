from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from bench.roofline import Shape

CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def test_weights_are_those_of_the_models_matrices() -> None:
    model = LlamaForCausalLM(CONFIG)

    assert Shape.of(CONFIG).weights == sum(p.numel() for p in model.parameters() if p.dim() == 2)


def test_a_step_reads_the_weights_once_and_each_streams_keys_and_values() -> None:
    shape = Shape.of(CONFIG)
    kv = 2 * 3 * 2 * 8  # keys and values, layers, heads, size

    one, two = (shape.step_bytes(streams, 10, "float32") for streams in (1, 2))

    assert two - one == 10 * kv * 4 + 2 * 4 * 96
    assert one - (two - one) == 4 * shape.weights


def test_a_step_computes_with_each_weight_for_each_stream() -> None:
    shape = Shape.of(CONFIG)

    assert shape.step_operations(3, 0) == 6 * shape.weights
    scores_and_sums = 2 * (2 * 3 * 4 * 8)  # both 2 operations, layers, heads, size
    assert shape.step_operations(1, 1) - shape.step_operations(1, 0) == scores_and_sums
