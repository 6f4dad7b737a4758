"""The loop around the engines, with fakes on both sides of it."""

from collections.abc import Callable, Iterator

import pytest

from shared.errors import ModelUnavailableError, PromptTooLongError
from shared.events import Event, FinishReason, Loading, Started, Token
from shared.job import GenerationRequest, SamplingParams
from tests.support.poll import until
from worker.engine.base import Output
from worker.engine.fake import CodePoints, FakeEngine
from worker.loop import EngineLoop
from worker.models import LoadedModel, Loader
from worker.run import Outcome, Run


class Published:
    """Stands where the publisher stands, and keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.outcomes: dict[str, Outcome] = {}

    def publish(self, run: Run, events: list[Event]) -> None:
        self.events += [(run.id, event) for event in events]

    def end(self, run: Run, outcome: Outcome) -> None:
        assert run.id not in self.outcomes, "a run ends once"
        self.outcomes[run.id] = outcome

    def text(self, job_id: str) -> str:
        return "".join(e.text for i, e in self.events if i == job_id and isinstance(e, Token))

    def kinds(self, job_id: str) -> list[type[Event]]:
        return [type(event) for i, event in self.events if i == job_id]


class Prompts:
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        if request.prompt == "too long":
            raise PromptTooLongError
        if request.prompt == "trips the tokenizer":
            raise ZeroDivisionError
        return CodePoints().encode(request.prompt)


class RaisingEngine(FakeEngine):
    def step(self) -> list[Output]:
        raise ArithmeticError("out of memory, say")


def fake_model(name: str) -> LoadedModel:
    if name == "missing":
        raise ModelUnavailableError("no such weights")
    kind = RaisingEngine if name == "raises" else FakeEngine
    return LoadedModel(name=name, engine=kind(slots=16, step_seconds=0.001), prompts=Prompts())


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def start(published: Published) -> Iterator[Callable[..., EngineLoop]]:
    loops: list[EngineLoop] = []

    def begin(*, loader: Loader = fake_model, max_loaded_models: int = 2) -> EngineLoop:
        loop = EngineLoop(
            loader=loader,
            publisher=published,
            max_loaded_models=max_loaded_models,
            on_crash=lambda: pytest.fail("the loop died"),
        )
        loop.preload("first")
        loop.start()
        loops.append(loop)
        return loop

    yield begin
    for loop in loops:
        loop.stop()


def job_run(job_id: str, prompt: str = "hello", *, model: str = "first", length: int = 999) -> Run:
    params = SamplingParams(max_tokens=length, temperature=0, seed=0)
    return Run(
        GenerationRequest(id=job_id, model=model, prompt=prompt, params=params, created_at=0)
    )


def wait_for(published: Published, *job_ids: str) -> None:
    until(lambda: set(job_ids) <= set(published.outcomes), what=f"the ends of {job_ids}")


def test_a_run_from_start_to_end(start: Callable[..., EngineLoop], published: Published) -> None:
    start().submit(job_run("a"))
    wait_for(published, "a")
    assert published.kinds("a") == [Started] + [Token] * 5
    assert published.text("a") == "hello"
    assert published.outcomes["a"] == Outcome(FinishReason.STOP)


def test_another_model_is_loaded_while_streams_run(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    loop.submit(job_run("a", "x" * 50))
    loop.submit(job_run("b", model="second"))
    wait_for(published, "a", "b")
    assert published.kinds("b")[:2] == [Loading, Started]
    assert loop.loaded == ("first", "second")


def test_the_least_recently_used_model_goes_once_it_is_idle(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(max_loaded_models=2)
    for job_id, model in (("a", "second"), ("b", "first"), ("c", "third")):
        loop.submit(job_run(job_id, model=model))
        wait_for(published, job_id)
    assert loop.loaded == ("first", "third")


def test_a_busy_model_is_not_unloaded(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(max_loaded_models=1)
    loop.submit(job_run("long", "x" * 100))
    loop.submit(job_run("b", model="second"))
    wait_for(published, "long", "b")
    ends = list(published.outcomes)
    assert ends == ["long", "b"]
    assert published.text("long") == "x" * 100


def test_a_busy_model_makes_room_for_one_that_waits(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    """More of the same must not keep another model out for ever."""
    loop = start(max_loaded_models=1)
    loop.submit(job_run("a1", "x" * 100))
    loop.submit(job_run("b", model="second"))
    loop.submit(job_run("a2", "y" * 100))
    loop.submit(job_run("broken", model="missing"))
    wait_for(published, "a1", "b", "a2", "broken")
    ends = list(published.outcomes)
    assert ends.index("a1") < ends.index("b") < ends.index("a2")
    assert (published.text("a1"), published.text("a2")) == ("x" * 100, "y" * 100)


def test_runs_are_admitted_again_when_the_model_that_waited_can_not_be_loaded(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(max_loaded_models=1)
    loop.submit(job_run("a1", "x" * 100))
    loop.submit(job_run("broken", model="missing"))
    loop.submit(job_run("a2"))
    wait_for(published, "a1", "broken", "a2")
    assert published.text("a2") == "hello"


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (job_run("bad", "too long"), "prompt_too_long"),
        (job_run("bad", "trips the tokenizer"), "generation_failed"),
        (job_run("bad", model="missing"), "model_unavailable"),
        (job_run("bad", model="raises"), "generation_failed"),
    ],
)
def test_what_fails_one_job_spares_the_others(
    start: Callable[..., EngineLoop], published: Published, run: Run, code: str
) -> None:
    loop = start()
    loop.submit(job_run("before", "x" * 30))
    loop.submit(run)
    loop.submit(job_run("after"))
    wait_for(published, "before", "bad", "after")
    outcome = published.outcomes["bad"]
    assert outcome.finish_reason == FinishReason.ERROR
    assert outcome.error is not None
    assert outcome.error.code == code
    assert (published.text("before"), published.text("after")) == ("x" * 30, "hello")


def test_an_engine_that_raised_is_loaded_anew(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    engines = [RaisingEngine(), FakeEngine()]

    def loader(name: str) -> LoadedModel:
        engine = engines.pop(0) if name == "second" else FakeEngine()
        return LoadedModel(name=name, engine=engine, prompts=Prompts())

    loop = start(loader=loader)
    loop.submit(job_run("a", model="second"))
    wait_for(published, "a")
    loop.submit(job_run("b", model="second"))
    wait_for(published, "b")
    assert published.outcomes["a"].finish_reason == FinishReason.ERROR
    assert published.text("b") == "hello"


def test_cancel_drops_a_run_without_an_end(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    loop.submit(job_run("a", "x" * 2000))
    until(lambda: len(published.text("a")) > 3, what="some tokens")
    loop.cancel("a")
    loop.submit(job_run("b"))
    wait_for(published, "b")
    assert "a" not in published.outcomes
    assert loop.stop() == []


def test_stop_returns_what_is_unfinished(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    run = job_run("a", "x" * 2000)
    loop.submit(run)
    until(lambda: len(published.text("a")) > 3, what="some tokens")
    assert loop.stop() == [run]
