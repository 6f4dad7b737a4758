"""Greedy output equals transformers' own, token for token, in float32.

On the real model and on tiny random ones whose attention differs: grouped heads, learned
positions, sliding windows, capped scores. Alone and in batches that requests join and leave.
And logits are the same bits alone, in any company and after a resumption.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.bits import Bits, differing, exercise, recorded, torch_threads
from tests.support.engines import greedy, reference, request, run, sampled, slot_engine
from tests.support.models import NoText, tiny_gemma2, tiny_gemma3, tiny_gpt2, tiny_llama
from worker.engine.activation import in_strips
from worker.engine.decoder import PlainDecoder

PROMPTS = [
    "What is the capital of France?",
    "Hi",
    "Count from one to twenty, please.",
    "Write a haiku about the sea.",
    "Why is the sky blue?",
    "List three colours.",
    "Tell me a story about a dragon and a knight who meet in a dark forest.",
    "Explain gravity to a child. Use simple words and one example from everyday life.",
    "Translate 'good morning' into French.",
    "What is 12 times 12?",
    "Name the planets of the solar system in order.",
    "Give me a recipe for pancakes with the ingredients first.",
    "def fibonacci(n):",
    "The quick brown fox jumps over the lazy dog. " * 6,
    "Who wrote Hamlet?",
    "日本の首都はどこですか?",
    "Was ist die Hauptstadt von Deutschland?",
    "Summarise: " + "Water boils at 100 degrees Celsius at sea level. " * 8,
    "How do vaccines work?",
    "🙂 What does this emoji mean?",
    "Write one sentence about autumn.",
    "What is the opposite of hot?",
    "Describe a bicycle to somebody who has never seen one.",
    "a",
]
MAX_TOKENS = 16


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Other tests run beside these: OpenMP's threads would wait for each other's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def real(real_model_folder: str) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(real_model_folder)
    return AutoModelForCausalLM.from_pretrained(real_model_folder), tokenizer


@pytest.fixture(scope="module")
def encoded(real: tuple[Any, Any]) -> list[list[int]]:
    return [
        real[1].apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in PROMPTS
    ]


@pytest.fixture(scope="module")
def expected(real: tuple[Any, Any], encoded: list[list[int]]) -> list[list[int]]:
    return [reference(real[0], ids, MAX_TOKENS) for ids in encoded]


@pytest.fixture(scope="module")
def engine(real: tuple[Any, Any]) -> Any:
    model, tokenizer = real
    return slot_engine(model, PlainDecoder(tokenizer), slots=8, context=1024, prefill_chunk=64)


def test_real_model_alone(engine: Any, encoded: list[list[int]], expected: list[list[int]]) -> None:
    for ids, answer in zip(encoded, expected, strict=True):
        assert run(engine, [request("alone", ids, greedy(MAX_TOKENS))])["alone"].ids == answer


@pytest.mark.parametrize("join_every", [0, 3])
def test_real_model_in_batches(
    engine: Any, encoded: list[list[int]], expected: list[list[int]], join_every: int
) -> None:
    requests = [
        # Different lengths, so that they leave at different steps too.
        request(str(i), ids, greedy(MAX_TOKENS - i % 3))
        for i, ids in enumerate(encoded)
    ]
    results = run(engine, requests, join_every=join_every)
    for i, answer in enumerate(expected):
        assert results[str(i)].ids == answer[: MAX_TOKENS - i % 3], PROMPTS[i]


def test_real_model_answers(engine: Any, encoded: list[list[int]]) -> None:
    assert "Paris" in run(engine, [request("x", encoded[0], greedy(MAX_TOKENS))])["x"].text


def test_a_seed_gives_the_same_text_in_any_company(engine: Any, encoded: list[list[int]]) -> None:
    mine = request("mine", encoded[6], sampled(MAX_TOKENS, seed=11))
    alone = run(engine, [mine])["mine"].text
    neighbours = [
        request(str(i), ids, sampled(MAX_TOKENS - i, seed=i)) for i, ids in enumerate(encoded[7:13])
    ]
    assert run(engine, [*neighbours[:3], mine, *neighbours[3:]])["mine"].text == alone
    assert run(engine, [*neighbours, mine], join_every=2)["mine"].text == alone
    other = request("other", encoded[6], sampled(MAX_TOKENS, seed=12))
    assert run(engine, [other])["other"].text != alone


@pytest.mark.parametrize(
    ("prompt", "beginning"), [("🙂🎉🚀" * 8, "🚀🚀🚀"), ("日本語" * 6, "日本語日本語")]
)
def test_multi_byte_text_streams_whole(
    engine: Any, real: tuple[Any, Any], prompt: str, beginning: str
) -> None:
    """Characters of several tokens; the last one is cut off by the limit."""
    ids = real[1](prompt)["input_ids"]
    result = run(engine, [request("x", ids, greedy(16))])["x"]
    assert result.text.startswith(beginning)
    assert not any("\ufffd" in piece for piece in result.pieces)


TINY: dict[str, Callable[[], Any]] = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "gemma3": tiny_gemma3,
    "gemma2": tiny_gemma2,
}


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("join_every", [0, 2])
def test_tiny_models(kind: str, join_every: int) -> None:
    model = TINY[kind]()
    engine = slot_engine(model, NoText(), slots=5)
    dice = random.Random(3)
    prompts = [[dice.randrange(3, 256) for _ in range(length)] for length in (1, 2, 7, 33, 80, 90)]
    requests = [
        request(str(i), ids, greedy(20 + 7 * i)) for i, ids in enumerate([*prompts, *prompts])
    ]
    results = run(engine, requests, join_every=join_every)
    for req in requests:
        answer = reference(model, req.prompt_ids, req.params.max_tokens)
        assert results[req.id].ids == answer, f"prompt of {len(req.prompt_ids)}"


@pytest.mark.parametrize("kind", TINY)
def test_resuming_at_any_token_changes_nothing(kind: str) -> None:
    model = TINY[kind]()
    engine = slot_engine(model, NoText(), eos_ids=[])
    prompt = [5, 9, 17, 33, 101]
    for params in (greedy(30), sampled(30, seed=4, top_p=0.9, temperature=0.7)):
        whole = run(engine, [request("whole", prompt, params)])["whole"]
        for cut in (1, 13, 29):
            rest = run(
                engine,
                [
                    request(
                        "rest",
                        prompt,
                        params,
                        generated_ids=tuple(whole.ids[:cut]),
                        generated_text="".join(whole.pieces[:cut]),
                    )
                ],
            )["rest"]
            assert whole.ids[:cut] + rest.ids == whole.ids
            assert "".join(whole.pieces[:cut]) + rest.text == whole.text


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Bits:
    return recorded(monkeypatch)


@pytest.mark.parametrize("kind", TINY)
def test_logits_are_the_same_bits_in_any_company(kind: str, bits: Bits) -> None:
    engine = slot_engine(TINY[kind](), NoText(), slots=7, prefill_chunk=19, eos_ids=[])
    dice = random.Random(5)
    # The last ones are read with more keys than MKL sums at once.
    lengths = [*range(1, 9), 15, 16, 17, 18, 33, 63, 193, 207, 222, 240]
    prompts = {str(n): [dice.randrange(3, 256) for _ in range(n)] for n in lengths}
    with torch_threads(1):  # two would spend their time waiting for each other
        met = exercise(engine, prompts, tokens=5)
    assert not differing(bits, met)


def test_logits_are_the_same_bits_in_a_long_context(bits: Bits) -> None:
    model = tiny_llama(max_position_embeddings=1200)
    engine = slot_engine(model, NoText(), context=1200, prefill_chunk=101, eos_ids=[])
    dice = random.Random(6)
    lengths = (3, 250, 383, 500, 510, 513, 527, 730, 1037)
    prompts = {str(n): [dice.randrange(3, 256) for _ in range(n)] for n in lengths}
    with torch_threads(1):
        met = exercise(engine, prompts, tokens=4)
    assert not differing(bits, met)


def test_logits_of_the_real_model_are_the_same_bits(
    engine: Any, encoded: list[list[int]], bits: Bits
) -> None:
    prompts = {str(i): encoded[i] for i in (0, 1, 6, 12)}
    with torch_threads(1):
        met = exercise(engine, prompts, tokens=3)
    assert not differing(bits, met)


@pytest.mark.parametrize("kind", [torch.nn.SiLU, torch.nn.GELU])
def test_activations_round_alike_on_any_number_of_threads(kind: type[torch.nn.Module]) -> None:
    model = torch.nn.Sequential(kind())
    in_strips(model)
    torch.manual_seed(0)
    states = 3 * torch.randn(1, 100, 4864)
    few = torch.cat([model(states[:, i : i + 4]) for i in range(0, 100, 4)], dim=1)
    with torch_threads(3):  # among which rows can't be shared out evenly
        assert torch.equal(model(states), few)


def test_a_full_context_ends_with_length() -> None:
    engine = slot_engine(tiny_llama(), NoText(), context=64, eos_ids=[])
    result = run(engine, [request("full", range(3, 53), greedy(1000))])["full"]
    assert result.finish_reason == "length"
    assert len(result.ids) == 14


def test_cancel_frees_the_slot_and_spares_the_others() -> None:
    model = tiny_llama()
    engine = slot_engine(model, NoText(), slots=3, eos_ids=[])
    for name in ("a", "b", "c"):
        engine.add(request(name, [7, 8, 9, ord(name)], greedy(40)))
    for _ in range(10):
        engine.step()
    assert engine.free_slots == 0
    engine.cancel("a")
    engine.cancel("never heard of")
    assert engine.free_slots == 1
    seen: list[int] = []
    while engine.has_work:
        seen += [i for output in engine.step() if output.id == "c" for i in output.ids]
    alone = run(engine, [request("c", [7, 8, 9, ord("c")], greedy(40))])["c"].ids
    assert seen == alone[-len(seen) :]
    assert len(seen) >= 30


def test_a_long_prompt_does_not_stop_running_streams() -> None:
    engine = slot_engine(tiny_llama(), NoText(), prefill_chunk=32, eos_ids=[])
    engine.add(request("running", [4, 5, 6], greedy(100)))
    engine.step()
    engine.add(request("long", range(3, 203), greedy(5)))
    between = 0
    while True:
        outputs = engine.step()
        assert [output.ids for output in outputs if output.id == "running"], "a step without token"
        if any(output.id == "long" for output in outputs):
            break
        between += 1
    assert between == 200 // 32
