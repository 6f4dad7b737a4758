"""The path for GPUs, computed on a CPU: what the model says, whatever company its tokens have.

What is torch's here, attention and the recording of passes, is replaced; what it is given is not.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import torch

from shared.configuration import load_settings
from tests.support.bits import torch_threads
from tests.support.engines import greedy, reference, request, run, sampled, slot_engine
from tests.support.logits import closeness, in_float, one_by_one, tokens
from tests.support.models import NoText, tiny_gemma2, tiny_gemma3, tiny_gpt2, tiny_llama
from tests.support.packed import packed_engine, packed_forward, varlen_attention
from worker import paths
from worker.engine import attention
from worker.engine.cache import Step
from worker.engine.eager import EagerForward
from worker.engine.gpu import attention as gpu_attention
from worker.engine.gpu import forward as gpu_forward
from worker.engine.gpu.forward import PackedForward
from worker.engine.gpu.norms import in_one
from worker.engine.sequence import Sequence

KINDS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "gemma3": tiny_gemma3}
SAME = 0.99999


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(autouse=True)
def plain_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_attention, "varlen_attn", varlen_attention)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_model_s(kind: str) -> None:
    model, ids = KINDS[kind](), tokens(80, 1)
    assert closeness(one_by_one(packed_forward(model), ids), in_float(model, ids)) > SAME


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_model_s_however_a_prompt_is_cut_and_in_any_company(kind: str) -> None:
    slots, context, dice = 6, 100, random.Random(4)
    model, texts = KINDS[kind](), [tokens(context, seed) for seed in range(slots)]
    expected = [in_float(model, text) for text in texts]
    forward = packed_forward(model, slots=slots, context=context)
    at = [0] * slots
    while min(at) < context:
        rows = [row for row in range(slots) if at[row] < context]
        steps = []
        for row in dice.sample(rows, dice.randint(1, len(rows))):
            ids = texts[row][at[row] : at[row] + dice.choice([1, 1, 2, 5, 16, 40])]
            steps.append(Step(row, at[row], ids, dice.randint(0, min(2, len(ids)))))
            at[row] += len(ids)
        wanted = [
            expected[step.row][at[step.row] - left]
            for step in steps
            for left in range(step.wanted, 0, -1)
        ]
        logits = forward(steps)
        assert len(logits) == len(wanted)
        if wanted:
            assert closeness(logits, torch.stack(wanted)) > SAME


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix_bytes", [0, 2**20])
def test_requests_that_come_and_go_are_answered_as_the_model_would(
    kind: str, prefix_bytes: int
) -> None:
    """More requests than slots, and some that begin like another."""
    model, shared = KINDS[kind](), tokens(40, 99)
    prompts = [shared[: 3 * n] + tokens(1 + 2 * n, n) for n in range(12)]
    engine = packed_engine(model, NoText(), slots=5, prefix_bytes=prefix_bytes)
    asked = [request(str(n), ids, greedy(4 + n)) for n, ids in enumerate(prompts)]
    answers = run(engine, asked, join_every=2)
    for n, ids in enumerate(prompts):
        assert answers[str(n)].ids == reference(model, ids, 4 + n)


def test_draws_are_those_of_the_eager_path() -> None:
    model = tiny_llama()
    asked = [
        request("plain", tokens(9, 1), sampled(30, seed=1)),
        request("cut", tokens(20, 2), sampled(30, seed=2, top_k=20, top_p=0.9, min_p=0.01)),
        request("penalized", tokens(33, 3), sampled(30, seed=3, frequency_penalty=0.5)),
        request("biased", tokens(5, 4), greedy(30, logit_bias={7: 3.0}, logprobs=2)),
    ]
    packed = run(packed_engine(model, NoText()), asked)
    eager = run(slot_engine(model, NoText()), asked)
    assert {name: one.ids for name, one in packed.items()} == {
        name: one.ids for name, one in eager.items()
    }
    assert len(packed["biased"].logprobs) == len(packed["biased"].ids)


@pytest.mark.parametrize("params", [greedy(200), sampled(200, seed=5)])
def test_drafts_change_nothing_that_is_said(params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, partly right and wrong ones; a few streams at once, up to the context's end."""
    model, prompt, dice = tiny_llama(), tokens(20, 3), random.Random(6)
    eager = slot_engine(model, NoText(), context=220, eos_ids=[])
    likely = run(eager, [request("x", prompt, params)])["x"].ids
    drafted = []

    def draft(sequence: Sequence, most: int) -> list[int]:
        room = min(most, 200 - sequence.generated - 1)
        guess = [
            token if dice.random() < 0.7 else 3 + token % 250
            for token in likely[sequence.generated :][:room]
        ]
        drafted.append(len(guess))
        return guess

    monkeypatch.setattr(Sequence, "draft", draft)
    for streams in (1, 2):
        engine = packed_engine(model, NoText(), context=220, eos_ids=[])
        asked = [request(str(n), prompt, params) for n in range(streams)]
        assert {tuple(one.ids) for one in run(engine, asked).values()} == {tuple(likely)}
    assert max(drafted) == 3


def test_a_row_that_is_moved_goes_on() -> None:
    model, ids = tiny_llama(), tokens(30, 5)
    forward = packed_forward(model, slots=3, context=64)
    forward([Step(2, 0, ids[:29])])
    forward.move(2, 0, 29)
    assert closeness(forward([Step(0, 29, ids[29:])]), in_float(model, ids)[-1:]) > SAME


def test_few_sizes_of_a_pass_are_recorded() -> None:
    """And no others later, whatever comes."""
    recorded = []
    attention.register()
    model = tiny_llama()
    model.set_attn_implementation(attention.NAME)

    def record(compute: Any) -> Any:
        recorded.append(compute)
        return compute

    forward = PackedForward(model, slots=20, context=256, record=record)
    assert len(recorded) == 6 + 8  # decoding 1, 2, 4, 8, 16, 24; 16 to 2,048 tokens
    forward([Step(row, 0, tokens(100, row)) for row in range(20)])
    forward([Step(row, 100, [5]) for row in range(19)])
    decoding = [Step(row, 101, [5]) for row in range(12)]
    forward([*decoding, *(Step(row, 0, tokens(forward.at_once // 8, 1)) for row in range(12, 20))])
    assert len(recorded) == 14


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Which path a model gets that is said to be on a GPU, and what is logged of it."""

    class NoGraphs:
        def record(self, compute: Any) -> Any:
            return compute

    monkeypatch.setattr(gpu_forward, "takes", lambda model: True)
    monkeypatch.setattr(paths, "Graphs", NoGraphs)
    settings = load_settings(data_dir=tmp_path, dtype="float32", slots=3)

    def begin(model: Any) -> tuple[Any, Any]:
        attention.register()
        model.set_attn_implementation(attention.NAME)
        with structlog.testing.capture_logs() as lines:
            forward, successor = paths.forward_of(model, settings, context=40)
        assert successor is None
        [line] = lines
        return forward, line

    return begin


@pytest.mark.parametrize("kind", KINDS)
def test_what_computes_the_same_serves(begun: Any, kind: str) -> None:
    forward, line = begun(KINDS[kind]())
    assert isinstance(forward, PackedForward)
    assert (line["event"], line["log_level"]) == ("graphs ready", "info")


def test_a_model_with_another_attention_is_served_by_its_own_path(begun: Any) -> None:
    model, ids = tiny_gemma2(), tokens(20, 2)
    expected = in_float(model, ids)
    forward, line = begun(model)
    assert isinstance(forward, EagerForward)
    assert line["event"] == "graphs unavailable"
    assert line["reason"] == (
        "capped scores and sinks. The model's own path serves, which is slower."
    )
    assert closeness(one_by_one(forward, ids), expected) > SAME


def test_a_failure_that_says_nothing_is_one(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(gpu_attention, "varlen_attn", fail)
    forward, line = begun(tiny_llama())
    assert isinstance(forward, EagerForward)
    assert line["reason"].startswith("NotImplementedError. ")


def test_passes_that_compute_something_else_do_not_serve(
    begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_attention, "varlen_attn", lambda query, *_, **__: query)
    forward, line = begun(tiny_llama())
    assert isinstance(forward, EagerForward)
    assert line["reason"].startswith("They differ from the model's own path: ")


@pytest.mark.parametrize("kind", KINDS)
def test_norms_become_one_operation(kind: str) -> None:
    """One that scales by its weight, one by how much more than one, one that is of another kind."""
    model, ids = KINDS[kind](), tokens(40, 3)
    norms = [each for each in model.modules() if type(each).__name__.endswith("RMSNorm")]
    assert len(norms) == {"llama": 7, "gemma3": 19, "gpt2": 0}[kind]
    for norm in norms:
        torch.nn.init.normal_(norm.weight, 0.3, 0.2)
    expected = in_float(model, ids)
    in_one(model)
    assert [each for each in model.modules() if "forward" in vars(each)] == norms
    assert closeness(in_float(model, ids), expected) > SAME


def test_a_norm_of_another_kind_stays_as_it_is() -> None:
    class OddRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(16))

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states / states.norm(dim=-1, keepdim=True) * self.weight

    odd = OddRMSNorm()
    in_one(odd)
    assert "forward" not in vars(odd)
