"""Which forward pass a model gets, and what becomes of it when there are no kernels for it."""

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import psutil
import pytest
import structlog
import torch

from shared.configuration import load_settings
from shared.errors import KernelsUnavailableError
from shared.settings import Settings
from tests.support.bits import torch_threads
from tests.support.engines import greedy, native_engine, options_of, request, run
from tests.support.kernels import compiled, loaded, native_forward
from tests.support.logits import CLOSE, closeness, in_float, one_by_one, tokens
from tests.support.models import NATIVE, NoText, native_llama, native_qwen2, tiny_gemma3, tiny_llama
from tests.support.poll import until
from worker.engine import attention
from worker.engine.cache import Step
from worker.engine.eager import EagerForward
from worker.engine.forward import Forward, Successor
from worker.engine.native import background, library
from worker.engine.native import kernels as kernels_module
from worker.engine.native.architecture import takes
from worker.engine.native.forward import NativeForward
from worker.engine.shape import native_kv_bytes
from worker.engine.transformers import TransformersEngine
from worker.paths import forward_of

CONTEXT = 100
Line = Any


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture
def lines(tmp_path, monkeypatch) -> Iterator[list[Line]]:
    """What is logged, while nothing is prebuilt and no compiler is chosen."""
    monkeypatch.setattr(kernels_module, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.delenv("CXX", raising=False)
    with structlog.testing.capture_logs() as found:
        yield found


@pytest.fixture
def own(tmp_path, lines) -> Settings:
    """Settings without kernels."""
    return load_settings(data_dir=tmp_path, device="cpu", slots=4)


@pytest.fixture
def ready(own) -> Settings:
    """Settings whose kernels are there."""
    own.models_dir.mkdir(parents=True)
    (own.models_dir / ".kernels").symlink_to(compiled())
    return own


@pytest.fixture
def coming(own, monkeypatch) -> "Future[Any]":
    """Kernels that are there once the test says so."""
    future: Future[Any] = Future()
    monkeypatch.setattr(background, "prepare", lambda kernels: future)
    return future


@pytest.fixture
def refused(own, coming, lines) -> Callable[..., tuple[str, str]]:
    """Begin with kernels that are no good, or have them come; how that is logged, and why."""

    def begun(*, at_once: bool) -> tuple[str, str]:
        if at_once:
            coming.set_result(loaded())
        forward, successor = begin(native_qwen2(), own)
        assert isinstance(forward, EagerForward)
        assert (successor is None) == at_once
        if successor is not None:
            coming.set_result(loaded())
            assert isinstance(successor.exception(timeout=60), KernelsUnavailableError)
        [line] = unavailable(lines)
        return line

    return begun


def on_our_attention(model: Any) -> Any:
    attention.register()
    model.set_attn_implementation(attention.NAME)
    return model.requires_grad_(requires_grad=False)


def begin(model: Any, settings: Settings) -> tuple[Forward, "Future[Successor] | None"]:
    return forward_of(on_our_attention(model), settings, context=CONTEXT)


def unavailable(lines: list[Line]) -> list[tuple[str, str]]:
    return [
        (line["log_level"], line.get("reason", ""))
        for line in lines
        if line["event"] == "kernels unavailable"
    ]


def test_kernels_that_are_there_compute_from_the_first_step(ready, lines) -> None:
    reference, ids = native_qwen2(), tokens(60, 1)
    forward, successor = begin(native_qwen2(), ready)
    assert isinstance(forward, NativeForward)
    assert successor is None
    assert [line["event"] for line in lines] == ["kernels ready", "compiled path ready"]
    assert closeness(one_by_one(forward, ids), in_float(reference, ids)) > CLOSE


def test_a_context_shorter_than_what_is_tried_first_is_no_obstacle(ready, lines) -> None:
    for context in (1, 7, 17):
        forward, _ = forward_of(on_our_attention(native_qwen2()), ready, context=context)
        assert isinstance(forward, NativeForward)
    assert unavailable(lines) == []


def test_without_kernels_the_eager_path_begins_and_they_come(own, lines) -> None:
    ids = tokens(60, 1)
    forward, successor = begin(native_qwen2(), own)
    assert isinstance(forward, EagerForward)
    assert successor is not None
    native = successor.result(timeout=120)
    assert isinstance(native, NativeForward)
    assert [line["event"] for line in lines] == [
        "compiling kernels for this CPU",
        "kernels ready",
        "compiled path ready",
    ]
    assert closeness(one_by_one(native, ids), one_by_one(forward, ids)) > CLOSE
    assert len(list((own.models_dir / ".kernels").glob("*.so"))) == 1


def test_without_a_compiler_the_eager_path_stays_and_one_line_says_so(
    own, lines, monkeypatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    forward, successor = begin(native_qwen2(), own)
    assert isinstance(forward, EagerForward)
    assert successor is not None
    assert isinstance(successor.exception(timeout=10), KernelsUnavailableError)
    [(level, reason)] = unavailable(lines)
    assert level == "warning"
    assert reason.startswith("CXX names /nowhere/c++, which can't be run.")


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"dtype": "bfloat16"}])
def test_who_asks_for_other_numbers_gets_them(ready, lines, changes) -> None:
    forward, successor = begin(native_qwen2(), ready.model_copy(update=changes))
    assert isinstance(forward, EagerForward)
    assert (successor, lines) == (None, [])


@pytest.mark.parametrize("build", [tiny_llama, tiny_gemma3])
def test_models_of_other_shapes_run_as_they_are(ready, lines, build) -> None:
    forward, successor = begin(build(), ready)
    assert isinstance(forward, EagerForward)
    assert (successor, lines) == (None, [])


@pytest.mark.parametrize("wrong", [float("nan"), 0.0, -1.0])
@pytest.mark.parametrize("at_once", [True, False])
def test_kernels_that_compute_nonsense_are_refused(refused, monkeypatch, wrong, at_once) -> None:
    computed = NativeForward.__call__
    monkeypatch.setattr(NativeForward, "__call__", lambda *args: computed(*args).mul_(wrong))
    level, reason = refused(at_once=at_once)
    assert level == "error"
    assert reason.startswith("They differ from the model's own path: ")


@pytest.mark.parametrize("at_once", [True, False])
def test_kernels_that_find_no_memory_are_done_without(refused, monkeypatch, at_once) -> None:
    """And whatever else goes wrong with them: the model is served all the same."""

    def too_little(status: int) -> None:
        raise MemoryError

    monkeypatch.setattr(library, "check", too_little)
    level, _ = refused(at_once=at_once)
    assert level == "error"


def config(kind: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    usual = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    return AutoConfig.for_model(kind, **{**usual, **changes})


@pytest.mark.parametrize("kind", NATIVE)
def test_kinds_that_are_taken(kind) -> None:
    assert takes(NATIVE[kind]().config)
    assert takes(config(kind, head_dim=64, num_key_value_heads=2))


@pytest.mark.parametrize(
    "rotation",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ],
    ids=lambda rotation: rotation["rope_type"],
)
def test_rotations_that_do_not_change_with_the_text_are_taken(rotation) -> None:
    model = native_llama(rope_parameters={"rope_theta": 10000.0, **rotation})
    assert takes(model.config)
    ids = tokens(90, 1)
    assert closeness(one_by_one(native_forward(model), ids), in_float(model, ids)) > CLOSE


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {}),
        ("gemma", {}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("gemma3n_text", {"intermediate_size": [512] * 35}),
        ("phi3", {"pad_token_id": 0}),
        ("mixtral", {}),
        ("qwen3_moe", {}),
        ("mamba", {}),
        ("rwkv", {}),
        ("llama", {"head_dim": 16}),
        ("llama", {"num_attention_heads": 16}),
        ("llama", {"hidden_size": 96 * 4, "head_dim": 96}),
        ("llama", {"hidden_size": 32 * 9, "num_attention_heads": 1, "head_dim": 64}),
        ("llama", {"intermediate_size": 500}),
        ("llama", {"hidden_act": "gelu"}),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
        ),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "factor": 2.0,
                    "short_factor": [1.0] * 32,
                    "long_factor": [2.0] * 32,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_kinds_widths_and_rotations_that_are_not_taken(kind, changes) -> None:
    if kind in ("mamba", "rwkv"):
        from transformers import AutoConfig

        other = AutoConfig.for_model(kind)
    else:
        other = config(kind, **changes)
    assert not takes(other)


@pytest.mark.parametrize("kind", NATIVE)
def test_the_cache_s_size_is_known_from_the_configuration(kind) -> None:
    model = NATIVE[kind]()
    for slots, context in ((8, 256), (3, 100), (1, 17)):
        engine = native_engine(model, NoText(), slots=slots, context=context)
        assert native_kv_bytes(model.config, slots, context) == engine.kv_bytes


class Counting:
    """Kernels that count what is freed."""

    def __init__(self) -> None:
        self.freed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(loaded(), name)
        if not name.endswith("_free"):
            return function

        def counted(handle: Any) -> None:
            self.freed.append(name)
            function(handle)

        return counted


def test_a_model_that_goes_takes_its_weights_and_threads_along() -> None:
    counting, before = Counting(), psutil.Process().num_threads()
    for _ in range(3):
        counting.freed.clear()
        forward = native_forward(native_qwen2(), kernels=counting, threads=3)
        forward([Step(0, 0, [5, 6, 7])])
        assert psutil.Process().num_threads() == before + 2
        assert counting.freed == []
        del forward
        assert counting.freed == ["mv_model_free", "mv_pool_free"]
        until(lambda: psutil.Process().num_threads() == before, what="the threads' end")


def test_weights_in_float_go_once_the_kernels_have_theirs(ready) -> None:
    """Those of an engine that begins with kernels, and of one that they come to."""
    model = native_qwen2()
    gone = weakref.ref(model)
    forward, _ = begin(model, ready)
    del model
    gc.collect()
    assert gone() is None
    assert torch.isfinite(forward([Step(0, 0, [5, 6, 7])])).all()


def test_weights_in_float_go_with_the_eager_path(own, coming) -> None:
    model = native_qwen2()
    gone, options = weakref.ref(model), options_of(model, NoText(), slots=4, context=CONTEXT)
    forward, successor = begin(model, own)
    engine = TransformersEngine(forward, successor=successor, **options)
    coming.set_result(loaded())
    assert successor.exception(timeout=60) is None
    del model, forward, successor
    run(engine, [request("x", tokens(20, 1), greedy(20))])
    assert engine._forward.ragged
    # The thread that has made the successor ends on its own.
    until(lambda: gc.collect() is not None and gone() is None, what="the end of the weights")
