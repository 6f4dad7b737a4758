"""Kernels of our own compute what the model says, and the same bits whatever goes on around.

Compared are logits with the model's own in float32, and bits alone, in any company, in whatever
pieces a prompt comes, on any number of threads and after a resumption.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.bits import Bits, Crowd, differing, exercise, recorded, torch_threads
from tests.support.engines import greedy, native_engine, request, run, sampled
from tests.support.kernels import loaded, native_forward
from tests.support.logits import (
    CLOSE,
    assert_plausible,
    closeness,
    in_float,
    one_by_one,
    tokens,
)
from tests.support.models import NATIVE, NoText, native_llama, native_qwen2
from worker.engine import speculation
from worker.engine.cache import Step
from worker.engine.decoder import PlainDecoder
from worker.engine.native import isa
from worker.engine.sequence import Sequence

TEXT = (
    "The capital of France is Paris, on the Seine. In 1889 a tower was built there, 300 metres "
    "high; def f(x): return x ** 2 + 1. 日本の首都は東京です。 🙂"
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Bits:
    return recorded(monkeypatch)


@pytest.fixture(scope="module")
def real(real_model_folder: str) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(real_model_folder)
    return AutoModelForCausalLM.from_pretrained(real_model_folder), tokenizer


@pytest.mark.parametrize("kind", NATIVE)
def test_logits_are_the_model_s(kind: str) -> None:
    model, ids = NATIVE[kind](), tokens(80, 1)
    assert closeness(one_by_one(native_forward(model), ids), in_float(model, ids)) > CLOSE


def test_logits_of_the_real_model_are_its_own(real: tuple[Any, Any]) -> None:
    model, tokenizer = real
    ids = tokenizer(TEXT)["input_ids"]
    expected, computed = in_float(model, ids), one_by_one(native_forward(model), ids)
    assert closeness(computed, expected) > 0.97
    assert torch.nn.functional.cosine_similarity(computed, expected).mean() > 0.99
    # What it would say next is the same nearly everywhere.
    assert (computed.argmax(1) == expected.argmax(1)).float().mean() > 0.85


def test_the_real_model_answers(real: tuple[Any, Any]) -> None:
    model, tokenizer = real
    engine = native_engine(model, PlainDecoder(tokenizer), slots=2)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of England?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert "London" in run(engine, [request("x", ids, greedy(16))])["x"].text


@pytest.mark.parametrize("kind", NATIVE)
def test_all_levels_compute_alike(kind: str) -> None:
    """Each instruction set that this machine has, the same bits where it can add a product in one.

    Without that, a number that was between two bytes becomes now and then the other one.
    """
    model, ids = NATIVE[kind](), tokens(80, 2)
    levels = isa.of_this_machine()
    best, *others = (
        one_by_one(native_forward(model, kernels=loaded(level)), ids) for level in levels
    )
    assert others
    for level, other in zip(levels[1:], others, strict=True):
        assert torch.equal(best, other) or "fma" not in level.needs
        assert closeness(best, other) > 0.999
        assert torch.nn.functional.cosine_similarity(best, other).mean() > 0.9999


@pytest.mark.parametrize("kind", NATIVE)
def test_a_prompt_s_bits_do_not_depend_on_how_it_is_cut(kind: str) -> None:
    """Random pieces in random company: the logits behind any token, and all keys and values."""
    slots, context, dice = 6, 160, random.Random(4)
    texts = [tokens(context, seed) for seed in range(slots)]
    model = NATIVE[kind]()
    seen: dict[tuple[int, int], bytes] = {}
    alone = native_forward(model, slots=slots, context=context)
    for row, text in enumerate(texts):
        for i, token in enumerate(text):
            seen[row, i] = alone([Step(row, i, [token])]).numpy().tobytes()
    for threads in (1, 2, 3):
        forward = native_forward(model, slots=slots, context=context, threads=threads)
        at = [0] * slots
        while min(at) < context:
            rows = [row for row in range(slots) if at[row] < context]
            chosen = dice.sample(rows, dice.randint(1, len(rows)))
            steps = []
            for row in chosen:
                count = dice.choice([1, 1, 2, 5, 15, 16, 17, 40])
                ids = texts[row][at[row] : at[row] + count]
                steps.append(Step(row, at[row], ids, dice.randint(0, len(ids))))
                at[row] += len(ids)
            wanted = [
                seen[step.row, at[step.row] - left]
                for step in steps
                for left in range(step.wanted, 0, -1)
            ]
            assert [logits.numpy().tobytes() for logits in forward(steps)] == wanted
        assert all(map(torch.equal, forward.tensors, alone.tensors))


def test_threads_that_keep_losing_their_cores_change_no_bit() -> None:
    """Far more than there are cores: others compute what one holds, again and again."""
    slots, context, dice = 4, 200, random.Random(8)
    model, texts = native_qwen2(), [tokens(context, seed) for seed in range(slots)]
    alone = native_forward(model, slots=slots, context=context)
    crowd = native_forward(model, slots=slots, context=context, threads=16)
    at = [0] * slots
    while min(at) < context:
        steps = []
        for row in range(slots):
            if ids := texts[row][at[row] : at[row] + dice.choice([0, 1, 1, 1, 7, 24])]:
                steps.append(Step(row, at[row], ids))
                at[row] += len(ids)
        if steps:
            assert torch.equal(alone(steps), crowd(steps))
    assert all(map(torch.equal, alone.tensors, crowd.tensors))


@pytest.mark.parametrize("kind", NATIVE)
def test_logits_are_the_same_bits_in_any_company(kind: str, bits: Bits) -> None:
    model = NATIVE[kind]()
    prompts = {str(n): tokens(n, n) for n in (1, 2, 15, 16, 17, 18, 33, 63, 193, 240)}
    for threads in (1, 2):
        engine = native_engine(model, NoText(), slots=5, eos_ids=[], threads=threads)
        met = exercise(engine, prompts, tokens=4)
    assert not differing(bits, met)


@pytest.mark.parametrize("kind", NATIVE)
def test_random_comings_and_goings_change_no_bit(kind: str, bits: Bits) -> None:
    """Greedy and sampled; some are cancelled and go on later, as after a worker's death."""
    dice = random.Random(9)
    requests = {
        str(n): (
            tokens(dice.randrange(1, 120), n),
            greedy(dice.randrange(1, 30)) if n % 2 else sampled(dice.randrange(1, 30), seed=n),
        )
        for n in range(24)
    }
    model = NATIVE[kind]()
    alone = native_engine(model, NoText(), eos_ids=[])
    expected = {
        name: run(alone, [request(name, *asked)])[name].ids for name, asked in requests.items()
    }
    for seed, prefix_bytes in ((1, 0), (2, 2**20)):
        crowd = Crowd(native_engine(model, NoText(), eos_ids=[], prefix_bytes=prefix_bytes), seed)
        crowd.run(requests)
        assert crowd.said == expected
    assert not differing(bits)


@pytest.mark.parametrize("kind", NATIVE)
def test_drafts_change_nothing_that_is_said(
    kind: str, bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right, partly right and wrong; up to the context's end, and beyond the end of an answer."""
    model, prompt, dice = NATIVE[kind](), tokens(20, 3), random.Random(6)
    whole = run(native_engine(model, NoText(), eos_ids=[]), [request("x", prompt, greedy(1000))])
    likely = whole["x"].ids
    asked = [
        request("long", prompt, greedy(1000)),
        request("drawn", prompt, sampled(60, seed=2, temperature=0.3)),
        request("penalized", prompt, greedy(40, repetition_penalty=1.1)),
        request("told", prompt, greedy(40, logprobs=2)),
        *(
            request(f"stop {at}", prompt, greedy(100, stop=(f"<{likely[at]}>",)))
            for at in range(20, 32)
        ),
        *(request(f"limit {count}", prompt, greedy(count)) for count in range(1, 9)),
    ]

    def said(prefix_bytes: int) -> list[Any]:
        engine = native_engine(model, NoText(), eos_ids=likely[50:51], prefix_bytes=prefix_bytes)
        ended = [run(engine, [each])[each.id] for each in asked]
        return [(one.ids, one.text, one.finish_reason, one.logprobs) for one in ended]

    with monkeypatch.context() as patch:
        patch.setattr(speculation, "room", lambda streams: 0)
        expected = said(0)

    def draft(sequence: Sequence, most: int) -> list[int]:
        guessed = likely[sequence.generated :][
            : min(most, sequence._limit - sequence.generated - 1)
        ]
        return [token if dice.random() < 0.7 else 3 + token % 250 for token in guessed]

    right: list[int] = []
    monkeypatch.setattr(Sequence, "draft", draft)
    monkeypatch.setattr(Sequence, "verified", lambda self, drafted, count: right.append(count))
    for prefix_bytes in (0, 2**20):
        assert said(prefix_bytes) == expected
    assert set(right) == {0, 1, 2, 3}
    assert not differing(bits)


def test_the_real_model_says_the_same_in_any_company(real: tuple[Any, Any], bits: Bits) -> None:
    model, tokenizer = real
    ids = tokenizer(TEXT)["input_ids"]
    prompts = {str(n): ids[:n] for n in (1, 7, 16, 40)}
    for threads in (1, 3):
        engine = native_engine(model, PlainDecoder(tokenizer), slots=3, eos_ids=[], threads=threads)
        met = exercise(engine, prompts, tokens=3)
    assert not differing(bits, met)


@pytest.mark.parametrize("build", [native_llama, native_qwen2])
def test_a_context_is_used_to_its_last_column(build: Callable[..., Any]) -> None:
    """Also where it is no multiple of 16; and a slot that was full is as good as new."""
    model = build()
    for context in (64, 77):
        engine = native_engine(model, NoText(), context=context, slots=2, eos_ids=[])
        prompts = {"one token": [5], "long": tokens(context - 1, 1), "other": tokens(50, 2)}
        for name, ids in prompts.items():
            result = run(engine, [request(name, ids, greedy(1000))])[name]
            assert result.finish_reason == "length"
            assert len(result.ids) == context - len(ids)
            assert_plausible(model, ids, result.ids)


def test_long_prompts_in_all_slots_at_once() -> None:
    """1,000 tokens each, beside streams that run: every pass is as wide as passes get."""
    model = native_qwen2()
    engine = native_engine(model, NoText(), slots=6, context=1100, eos_ids=[], prefill_chunk=512)
    long = [request(f"long {n}", tokens(1000 + n, n), greedy(4)) for n in range(4)]
    short = [request(f"short {n}", tokens(9, n), greedy(40)) for n in range(2)]
    together = run(engine, [*short, *long])
    for each in (*short, *long):
        assert together[each.id].ids == run(engine, [each])[each.id].ids
    ids = tokens(1000, 0)
    forward = native_forward(model, context=1100)
    behind_all = forward([Step(0, 0, ids)])
    assert closeness(behind_all, in_float(model, ids)[-1:]) > CLOSE


@pytest.mark.parametrize("name", ["k_proj", "v_proj"])
def test_numbers_beyond_half_precision_stay_finite(name: str) -> None:
    model = native_llama()
    for layer in model.model.layers:
        getattr(layer.self_attn, name).weight.data *= 1e6
    forward = native_forward(model)
    for start in (0, 20):
        assert torch.isfinite(forward([Step(0, start, tokens(20, start))])).all()
    largest = max(float(tensor.abs().max()) for tensor in forward.tensors)
    assert largest == 65504.0
