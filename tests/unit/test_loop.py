"""The loop around the engines, with fakes on both sides of it."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from shared.claim import Claim
from shared.errors import MiniVaultError, ModelUnavailableError, PromptTooLongError
from shared.events import AnyEvent, Event, FinishReason, Loading, Started, Token
from shared.job import GenerationRequest, SamplingParams
from tests.support.poll import until
from worker.engine.base import Output
from worker.engine.fake import CodePoints, FakeEngine
from worker.loop import EngineLoop
from worker.memory import Memory, Need
from worker.metrics import WorkerMetrics
from worker.models import LoadedModel, Loader
from worker.publisher import Step
from worker.run import Outcome, Run
from worker.shelf import Room

MIB = 2**20


class Published:
    """Stands where the publisher stands, and keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.outcomes: dict[str, Outcome] = {}
        self.accused: list[tuple[str, int]] = []
        """And how many events there were by then."""
        self.settled: list[int] = []
        """How many events there were whenever they were waited for."""
        self.steps: list[Step] = []
        self.log_takes_it = threading.Event()
        self.log_takes_it.set()

    def publish(self, run: Run, events: list[Event]) -> None:
        self.events += [(run.id, event) for event in events]
        if self.log_takes_it.is_set():
            for event in events:
                run.note(cast("AnyEvent", event))

    def pass_on(self, run: Run, output: Output) -> None:
        if output.ids or output.text:
            token = Token(seq=0, ids=output.ids, text=output.text, logprobs=output.logprobs)
            self.publish(run, [token])
        if output.finish_reason is not None:
            self.end(run, Outcome(output.finish_reason, output.error))

    def send(self, step: Step | None = None) -> None:
        if step is not None:
            self.steps.append(step)

    def settle(self, seconds: float) -> None:
        assert 0 < seconds < 0.01
        self.settled.append(len(self.events))

    def end(self, run: Run, outcome: Outcome) -> None:
        assert run.id not in self.outcomes, "a run ends once"
        self.outcomes[run.id] = outcome

    def numbers(self, job_id: str, kind: type[Event]) -> list[int]:
        """Which of all events were this job's of a kind."""
        return [
            number
            for number, (i, event) in enumerate(self.events)
            if i == job_id and isinstance(event, kind)
        ]

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


class Shelf:
    """Room for models that weigh nothing, or what they are said to."""

    def __init__(self, *, places: int = 2, budget: int = 0, **bytes_of: int) -> None:
        self.places = places
        self.memory = Memory(budget, lambda: 2**60)
        self._bytes_of = bytes_of

    def need(self, name: str) -> Need:
        return Need(self._bytes_of.get(name, 0), 0, 0)


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def start(published: Published) -> Iterator[Callable[..., EngineLoop]]:
    loops: list[EngineLoop] = []

    def begin(
        *,
        loader: Loader = fake_model,
        max_loaded_models: int = 2,
        room: Room | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> EngineLoop:
        loop = EngineLoop(
            loader=loader,
            publisher=published,
            metrics=metrics or WorkerMetrics(),
            room=room or Shelf(places=max_loaded_models),
            accuse=lambda run: published.accused.append((run.id, len(published.events))),
            on_crash=lambda: pytest.fail("the loop died"),
        )
        loop.preload("first")
        loop.start()
        loops.append(loop)
        return loop

    yield begin
    for loop in loops:
        loop.stop()


def job_run(
    job_id: str,
    prompt: str = "hello",
    *,
    model: str = "first",
    length: int = 999,
    strikes: int = 0,
) -> Run:
    params = SamplingParams(max_tokens=length, temperature=0, seed=0)
    return Run(
        Claim(job_id, model, f"worker/{job_id}", strikes),
        GenerationRequest(id=job_id, model=model, prompt=prompt, params=params, created_at=0),
    )


def code_of(published: Published, job_id: str) -> str:
    error = published.outcomes[job_id].error
    return error.code if error else ""


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


def test_a_pinned_model_stays_and_the_next_one_goes(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(max_loaded_models=2)
    loop.shelf.pinned = frozenset({"first"})
    for job_id, model in (("a", "second"), ("b", "third"), ("c", "fourth")):
        loop.submit(job_run(job_id, model=model))
        wait_for(published, job_id)
    assert loop.loaded == ("first", "fourth")
    assert loop.shelf.swaps == 2
    loop.shelf.pinned = frozenset({"first", "fourth"})
    loop.submit(job_run("d", model="fifth"))
    wait_for(published, "d")
    assert code_of(published, "d") == "no_place"


def test_what_never_fits_is_refused_and_nothing_goes_for_it(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(room=Shelf(places=4, budget=1000 * MIB, second=300 * MIB, huge=2000 * MIB))
    loop.submit(job_run("a", model="second"))
    loop.submit(job_run("b", model="huge"))
    wait_for(published, "a", "b")
    assert code_of(published, "b") == "model_too_large"
    error = published.outcomes["b"].error
    assert error is not None
    assert error.detail == (
        "The model huge needs 2.02 GiB (1.95 GiB weights, 0.00 GiB KV cache); "
        "MINIVAULT_MODEL_MEMORY leaves it 0.98 GiB."
    )
    assert loop.loaded == ("first", "second")
    assert list(loop.shelf.refused) == ["huge"]


def test_idle_models_go_until_the_next_one_fits(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(room=Shelf(places=9, budget=1000 * MIB, second=300 * MIB, third=700 * MIB))
    for job_id, model in (("a", "second"), ("b", "third")):
        loop.submit(job_run(job_id, model=model))
        wait_for(published, job_id)
    assert loop.loaded == ("third",)
    assert loop.shelf.swaps == 2


def test_a_model_can_be_loaded_and_let_go_without_a_run(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start(max_loaded_models=3)
    outcomes: queue.SimpleQueue[MiniVaultError | None] = queue.SimpleQueue()
    for name in ("second", "second"):
        loop.load(name, outcomes.put)
        assert outcomes.get(timeout=10) is None
    assert loop.loaded == ("first", "second")
    loop.load("missing", outcomes.put)
    assert isinstance(outcomes.get(timeout=10), ModelUnavailableError)
    for name in ("second", "second", "never there"):
        loop.unload(name, outcomes.put)
        assert outcomes.get(timeout=10) is None
    assert loop.loaded == ("first",)
    assert loop.coming == ()


def test_a_model_is_let_go_behind_its_runs_and_comes_back_for_the_next(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    gone = threading.Event()
    loop.submit(job_run("long", "x" * 100))
    until(lambda: len(published.text("long")) > 3, what="some tokens")
    loop.unload("first", lambda _: gone.set())
    loop.submit(job_run("next", "y" * 10))
    assert gone.wait(10)
    wait_for(published, "long", "next")
    assert (published.text("long"), published.text("next")) == ("x" * 100, "y" * 10)
    assert loop.loaded == ("first",)


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


def test_a_cancelled_run_ends_as_cancelled_and_a_dropped_one_not_at_all(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    cancelled, dropped = job_run("cancelled", "x" * 2000), job_run("dropped", "x" * 2000)
    loop.submit(cancelled)
    loop.submit(dropped)
    until(lambda: len(published.text("dropped")) > 3, what="some tokens")
    loop.cancel(cancelled)
    loop.drop(dropped)
    loop.submit(job_run("after"))
    wait_for(published, "cancelled", "after")
    assert published.outcomes["cancelled"] == Outcome(FinishReason.CANCELLED)
    assert "dropped" not in published.outcomes
    assert loop.stop() == []


def test_a_run_is_cancelled_once_and_not_behind_its_end(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    twice, ended = job_run("twice", "x" * 2000), job_run("ended")
    loop.submit(twice)
    loop.submit(ended)
    wait_for(published, "ended")
    for run in (twice, twice, ended):
        loop.cancel(run)  # `Published` fails a second end
    loop.submit(job_run("after"))
    wait_for(published, "twice", "after")
    assert published.outcomes["ended"] == Outcome(FinishReason.STOP)


def test_a_run_that_waits_for_its_model_can_be_cancelled(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    gate = threading.Event()

    def loader(name: str) -> LoadedModel:
        assert name == "first" or gate.wait(10)
        return fake_model(name)

    loop = start(loader=loader)
    run = job_run("waits", model="second")
    loop.submit(run)
    until(lambda: published.kinds("waits") == [Loading], what="the start of loading")
    loop.cancel(run)
    wait_for(published, "waits")
    gate.set()
    loop.submit(job_run("next", model="second"))
    wait_for(published, "next")
    assert published.outcomes["waits"] == Outcome(FinishReason.CANCELLED)
    assert published.text("waits") == ""


def test_few_runs_open_at_once(start: Callable[..., EngineLoop], published: Published) -> None:
    """If the worker dies of one of them, few are suspected; the others wait in line."""
    gate = threading.Event()

    class HeldEngine(FakeEngine):
        def step(self) -> list[Output]:
            return super().step() if gate.wait(0.001) else []

    def loader(name: str) -> LoadedModel:
        if name != "first":
            return fake_model(name)
        return LoadedModel(name=name, engine=HeldEngine(slots=32), prompts=Prompts())

    loop = start(loader=loader)
    runs = [job_run(f"{number}") for number in range(20)]
    for run in runs:
        loop.submit(run)
    loop.submit(job_run("last", model="missing"))
    wait_for(published, "last")  # so all others have been admitted
    assert len(started(published)) == 8
    gate.set()
    wait_for(published, *(run.id for run in runs))
    assert started(published) == [run.id for run in runs]
    assert all(published.text(run.id) == "hello" for run in runs)


def test_a_suspect_opens_alone_and_is_accused_first(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    """If the worker dies again, it is clear of which one."""
    loop = start()
    long = job_run("long", "x" * 300)
    loop.submit(long)
    until(lambda: len(published.text("long")) > 3, what="some tokens")
    opened = ["a", "s1", "b", "s2", "c", "once"]
    for job_id in opened:
        strikes = {"s1": 2, "s2": 2, "once": 1}.get(job_id, 0)
        loop.submit(job_run(job_id, "x" * 50, strikes=strikes))
    wait_for(published, *opened)
    assert started(published) == ["long", *opened]
    first_tokens = [published.numbers(job_id, Token)[0] for job_id in opened]
    starts = [published.numbers(job_id, Started)[0] for job_id in opened]
    for suspect in (1, 3):
        assert starts[suspect] > max(first_tokens[:suspect])
        assert min(starts[suspect + 1 :]) > first_tokens[suspect]
    assert [job_id for job_id, _ in published.accused] == ["s1", "s2"]
    for suspect, (_, events_before) in zip((1, 3), published.accused, strict=True):
        assert events_before <= starts[suspect]


def test_nothing_is_opened_before_the_log_acquits_a_suspect(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    """Were the worker to die of the next one, the suspect would seem to have got no further."""
    loop = start()
    published.log_takes_it.clear()
    loop.submit(job_run("suspect", "xx", strikes=2))
    wait_for(published, "suspect")
    for job_id, model in (("next", "first"), ("other", "missing")):
        loop.submit(job_run(job_id, model=model))
    wait_for(published, "other")
    assert started(published) == ["suspect"]


def test_a_suspect_is_accused_before_its_model_is_loaded(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    start().submit(job_run("s", model="second", strikes=2))
    wait_for(published, "s")
    assert published.accused[0] == ("s", 0)


def started(published: Published) -> list[str]:
    return [job_id for job_id, event in published.events if isinstance(event, Started)]


def test_stop_returns_what_is_unfinished(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    run = job_run("a", "x" * 2000)
    loop.submit(run)
    until(lambda: len(published.text("a")) > 3, what="some tokens")
    assert loop.stop() == [run]


def test_each_step_is_told(start: Callable[..., EngineLoop], published: Published) -> None:
    begin, loop = time.time(), start()
    loop.submit(job_run("a", length=5))
    wait_for(published, "a")
    assert [step.model for step in published.steps] == ["first"] * len(published.kinds("a")[1:])
    assert all(0.001 <= step.seconds < 10 for step in published.steps)
    moments = [begin, *(step.ended_at for step in published.steps), time.time()]
    assert moments == sorted(moments)


def test_a_step_waits_for_first_tokens_to_be_told_and_for_no_others(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    loop = start()
    for number in range(2):
        loop.submit(job_run(str(number), length=5))
        until(lambda: str(number) in published.outcomes, what="its end")  # noqa: B023
    firsts = [published.numbers(str(number), Token)[0] + 1 for number in range(2)]
    assert published.settled == firsts


def test_of_a_burst_only_the_last_first_tokens_are_waited_for(
    start: Callable[..., EngineLoop], published: Published
) -> None:
    """More than may open at once: those behind wait for the step."""
    loop, gate, names = start(), threading.Event(), [f"{number:02}" for number in range(12)]
    loop.load("first", lambda _: gate.wait(10))  # holds the loop's thread until all have come
    for name in names:
        loop.submit(job_run(name, length=5))
    gate.set()
    wait_for(published, *names)
    assert published.settled == [max(published.numbers(name, Token)[0] for name in names) + 1]


def priority_of(thread: int) -> int:
    """Elsewhere than on Linux it is the process's."""
    return os.getpriority(os.PRIO_PROCESS, thread if sys.platform == "linux" else os.getpid())


def test_who_computes_stands_back(start: Callable[..., EngineLoop]) -> None:
    priorities: list[int] = []

    def noting(name: str) -> LoadedModel:
        priorities.append(priority_of(threading.get_native_id()))
        return fake_model(name)

    loop = start(loader=noting)
    loop.submit(job_run("a", model="second"))
    until(lambda: len(priorities) == 2, what="both models")
    [engine] = [thread for thread in threading.enumerate() if thread.name == "engine"]
    assert engine.native_id is not None
    priorities.append(priority_of(engine.native_id))
    stands_back = 5 if sys.platform == "linux" else 0
    assert priorities == [priority_of(os.getpid()) + stands_back] * 3
