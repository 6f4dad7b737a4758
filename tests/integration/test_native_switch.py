"""An engine that has begun without kernels goes on with them between two steps."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch import Tensor

from shared.errors import KernelsUnavailableError
from tests.support.bits import Bits, differing, recorded, torch_threads
from tests.support.engines import (
    eager_forward,
    greedy,
    native_engine,
    options_of,
    request,
    run,
    sampled,
    slot_engine,
)
from tests.support.kernels import native_forward
from tests.support.logits import CLOSE, assert_plausible, closeness, in_float, tokens
from tests.support.models import NATIVE, NoText, native_llama, native_qwen2
from worker.engine.blocks import BLOCK
from worker.engine.cache import Step
from worker.engine.forward import Forward, Successor
from worker.engine.transformers import TransformersEngine

SLOTS, CONTEXT = 6, 200


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Bits:
    return recorded(monkeypatch)


def eager_engine(model: Any, successor: "Future[Successor]", **changes: Any) -> TransformersEngine:
    options = options_of(model, NoText(), slots=SLOTS, context=CONTEXT, eos_ids=[], **changes)
    forward = eager_forward(model, slots=SLOTS, context=CONTEXT)
    return TransformersEngine(forward, successor=successor, **options)


def coming(model: Any) -> Successor:
    return native_forward(model, slots=SLOTS, context=CONTEXT)


def layers(forward: Forward) -> list[Tensor]:
    """Keys and values of each layer, [rows, heads, columns, head size]."""
    return [layer for piece in forward.tensors for layer in piece]


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 48, 95])
def test_what_the_eager_path_held_is_taken_over_exactly(kind: str, length: int) -> None:
    """In half precision, keys turned in each block; and nothing of other rows or columns."""
    model, ids = NATIVE[kind](), tokens(96, length)
    eager = eager_forward(model, slots=3, context=96)
    for row in range(3):
        eager([Step(row, 0, ids if row == 1 else tokens(90, row))])
    native = native_forward(model, slots=3, context=96)
    native.take_over(1, length, eager.tensors)
    whole = -(-length // BLOCK) * BLOCK
    for number, (copied, own) in enumerate(zip(layers(native), layers(eager), strict=True)):
        assert not copied[[0, 2]].any()
        assert not copied[1, :, whole:].any()
        heads, _, size = copied[1].shape
        there = copied[1, :, :whole]
        if number % 2 == 0:
            blocks = there.reshape(heads, whole // BLOCK, size, BLOCK)
            there = blocks.transpose(-1, -2).reshape(heads, whole, size)
        assert torch.equal(there[:, :length], own[1, :, :length].half())
    logits = native([Step(1, length, [ids[length]])])
    assert closeness(logits, in_float(model, ids[: length + 1])[-1:]) > CLOSE


@pytest.mark.parametrize("name", ["k_proj", "v_proj"])
def test_numbers_beyond_half_precision_are_taken_over_as_its_largest(name: str) -> None:
    model = native_llama()
    for layer in model.model.layers:
        getattr(layer.self_attn, name).weight.data *= 1e6
    eager = eager_forward(model, slots=1, context=64)
    eager([Step(0, 0, tokens(20, 1))])
    native = native_forward(model, context=64)
    native.take_over(0, 20, eager.tensors)
    assert all(torch.isfinite(tensor).all() for tensor in native.tensors)
    assert torch.isfinite(native([Step(0, 20, [5])])).all()


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("steps", [0, 1, 3, 9, 25])
def test_running_streams_go_on_without_a_token_lost_or_repeated(kind: str, steps: int) -> None:
    """Some decode, one is amid its prompt, one has just come; one has left before the others."""
    model, successor = NATIVE[kind](), Future[Successor]()
    engine = eager_engine(model, successor)
    prompts = {str(n): tokens(length, n) for n, length in enumerate((1, 3, 16, 40, 100))}
    said: dict[str, list[int]] = {name: [] for name in prompts}
    ended = set()

    def step() -> None:
        for output in engine.step():
            said[output.id] += output.ids
            if output.finish_reason:
                ended.add(output.id)

    for name in "012":
        engine.add(request(name, prompts[name], greedy(50)))
    for _ in range(steps):
        step()
    engine.cancel("0")
    engine.add(request("3", prompts["3"], greedy(50)))
    if steps:
        step()
    engine.add(request("4", prompts["4"], greedy(50)))
    successor.set_result(coming(model))
    step()
    assert engine._forward.ragged
    while engine.has_work:
        step()
    assert ended == set("1234")
    for name in "1234":
        assert len(said[name]) == 50
        assert_plausible(model, prompts[name], said[name])


def test_what_follows_is_as_if_it_had_always_been_there(bits: Bits) -> None:
    """To the bit, in the slots of streams that had begun before, and where a prompt is theirs.

    What they hold was computed in other numbers, so nobody else gets it.
    """
    model, successor = native_qwen2(), Future[Successor]()
    engine = eager_engine(model, successor, prefix_bytes=2**22)
    before = {str(n): tokens(60 + n, n) for n in range(4)}
    for name, ids in before.items():
        engine.add(request(f"before {name}", ids, greedy(70)))
    for _ in range(30):
        engine.step()
    assert engine.prefix_bytes > 0
    successor.set_result(coming(model))
    engine.step()
    assert engine.prefix_bytes == 0
    while engine.has_work:
        engine.step()
    alone = native_engine(model, NoText(), slots=1, context=CONTEXT, eos_ids=[])
    bits.clear()
    for turn in range(2):
        after = [
            request(f"after {name}", [*ids, 7, 8], sampled(20, seed=3))
            for name, ids in before.items()
        ]
        together = run(engine, after, join_every=1)
        for each in after:
            assert together[each.id].ids == run(alone, [each])[each.id].ids, f"turn {turn}"
    assert not differing(bits)
    assert engine.prefix_bytes > 0


def test_the_prefix_cache_is_the_successor_s(bits: Bits) -> None:
    model, successor = native_qwen2(), Future[Successor]()
    engine = eager_engine(model, successor, prefix_bytes=2**22)
    prompt = tokens(100, 5)
    cached: dict[str, int] = {}
    for name in ("eager", "eager again", "first", "second"):
        if name == "first":
            successor.set_result(coming(model))
        engine.add(request(name, prompt, greedy(5)))
        while engine.has_work:
            for output in engine.step():
                cached.setdefault(output.id, output.cached_tokens)
    assert cached == {"eager": 0, "eager again": 96, "first": 0, "second": 96}
    assert len(bits[tuple(prompt)]) == 4
    eager, again, first, second = bits[tuple(prompt)]
    assert eager == again != first == second


def test_one_that_never_comes_changes_nothing() -> None:
    model, successor = native_qwen2(), Future[Successor]()
    engine = eager_engine(model, successor)
    prompts = [request(str(n), tokens(20 + n, n), greedy(30)) for n in range(4)]
    for each in prompts[:2]:
        engine.add(each)
    for _ in range(10):
        engine.step()
    successor.set_exception(KernelsUnavailableError("no compiler"))
    while engine.has_work:
        engine.step()
    expected = run(slot_engine(model, NoText(), context=CONTEXT, eos_ids=[]), prompts)
    found = run(engine, prompts)
    assert not engine._forward.ragged
    assert {name: each.ids for name, each in found.items()} == {
        name: each.ids for name, each in expected.items()
    }
