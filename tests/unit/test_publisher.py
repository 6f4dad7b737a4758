"""Numbers, order, merging and fencing, with a log that lives in memory."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from shared.claim import Claim
from shared.events import AnyEvent, FinishReason, Started, Token
from shared.job import GenerationRequest, SamplingParams
from shared.log import Append
from shared.tracing import Tracing
from tests.support.poll import until
from worker.engine.base import Output
from worker.metrics import WorkerMetrics
from worker.publisher import Publisher, Step
from worker.run import Outcome, Run
from worker.traces import RunTraces


class MemoryLog:
    """An event log that can be held up, can fail, and can be fenced."""

    def __init__(self) -> None:
        self.events: dict[str, list[AnyEvent]] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.fenced: set[str] = set()
        self.failures: list[redis.exceptions.RedisError] = []

    def append_all(self, appends: Sequence[Append]) -> list[bool]:
        assert self.gate.wait(10)
        if self.failures:
            raise self.failures.pop()
        return [self._append(job_id, event) for job_id, _, event in appends]

    def _append(self, job_id: str, event: AnyEvent) -> bool:
        if job_id in self.fenced:
            return False
        events = self.events.setdefault(job_id, [])
        assert event.seq == len(events) + 1
        events.append(event)
        return True


class Ends:
    def __init__(self) -> None:
        self.ended: list[tuple[str, Outcome]] = []
        self.fenced: list[str] = []
        self.crashes = 0

    def crash(self) -> None:
        self.crashes += 1


def publisher(log: MemoryLog, metrics: WorkerMetrics | None = None) -> tuple[Publisher, Ends]:
    ends = Ends()
    made = Publisher(
        log,
        metrics=metrics or WorkerMetrics(),
        traces=RunTraces(Tracing("test")),
        on_end=lambda run, outcome: ends.ended.append((run.id, outcome)),
        on_fenced=lambda run: ends.fenced.append(run.id),
        on_crash=ends.crash,
    )
    made.start()
    return made, ends


def job_run(job_id: str) -> Run:
    params = SamplingParams(max_tokens=9, temperature=0, seed=0)
    return Run(
        Claim(job_id, "m", f"worker/{job_id}"),
        GenerationRequest(id=job_id, model="m", prompt="p", params=params, created_at=0),
    )


def output(token_id: int, **more: Any) -> Output:
    return Output("", (token_id,), chr(token_id), **more)


STEP = Step("m", 0.01, 9.0)


STOP = Outcome(FinishReason.STOP)


def test_tokens_that_pile_up_share_an_event() -> None:
    log = MemoryLog()
    made, ends = publisher(log)
    a, b = job_run("a"), job_run("b")
    log.gate.clear()
    made.publish(a, [Started(seq=0, prompt_tokens=1)])
    made.send()
    until(made._drafts.empty, what="the publisher at work")
    for token_id in b"hello":
        made.pass_on(a, output(token_id))
        made.pass_on(b, output(token_id))
        made.send(STEP)
    made.end(a, STOP)
    log.gate.set()
    made.close()
    assert [type(event) for event in log.events["a"]] == [Started, Token]
    assert log.events["a"][1] == Token(seq=2, ids=tuple(b"hello"), text="hello")
    assert log.events["b"] == [Token(seq=1, ids=tuple(b"hello"), text="hello")]
    assert ends.ended == [("a", STOP)]
    assert (a.text, a.ids, a.last_seq) == ("hello", list(b"hello"), 2)


def test_numbers_go_on_behind_an_earlier_attempt() -> None:
    log = MemoryLog()
    run = job_run("a")
    run.note(Started(seq=1, prompt_tokens=1))
    log.events["a"] = [Started(seq=1, prompt_tokens=1)]
    made, _ = publisher(log)
    made.pass_on(run, output(65))
    made.send(STEP)
    made.close()
    assert log.events["a"][-1].seq == 2


def test_a_fenced_run_is_reported_once_and_never_ends() -> None:
    log = MemoryLog()
    log.fenced.add("a")
    made, ends = publisher(log)
    run, other = job_run("a"), job_run("b")
    for token_id in b"abc":
        made.pass_on(run, output(token_id))
    made.end(run, STOP)
    made.pass_on(other, output(65))
    made.send(STEP)
    made.close()
    assert ends.fenced == ["a"]
    assert ends.ended == []
    assert len(log.events["b"]) == 1


def test_an_echoed_prompt_stays_an_event_of_its_own() -> None:
    log = MemoryLog()
    made, _ = publisher(log)
    echo = Token(seq=0, ids=(), text="p")
    run = job_run("a")
    made.publish(run, [echo])
    for token_id in b"AB":
        made.pass_on(run, output(token_id))
    made.send(STEP)
    made.close()
    assert [(event.text, event.ids) for event in log.events["a"]] == [("p", ()), ("AB", (65, 66))]


def test_what_steps_bring_is_counted_once_it_is_in_the_logs() -> None:
    log, metrics = MemoryLog(), WorkerMetrics()
    made, ends = publisher(log, metrics)
    runs, value = [job_run("a"), job_run("b")], metrics.registry.get_sample_value
    log.gate.clear()
    for number, moment in enumerate((3.0, 3.5, 5.5)):
        for run in runs:
            made.pass_on(run, output(65, cached_tokens=0 if number else 3))
        made.send(Step("m", 0.25, moment))
    made.pass_on(runs[0], Output("", text="!", finish_reason=FinishReason.STOP))
    made.send(Step("m", 0.25, 6.0))
    assert not value("minivault_generation_tokens_total", {"model": "m"})
    log.gate.set()
    made.close()
    counts = {
        "generation_tokens_total": 6,
        "engine_step_seconds_count": 4,
        "engine_step_seconds_sum": 1.0,
        "time_to_first_token_seconds_count": 2,
        "time_to_first_token_seconds_sum": 6.0,
        "inter_token_latency_seconds_count": 4,
        "inter_token_latency_seconds_sum": 5.0,
        "prefix_cache_hits_total": 2,
        "prefix_cache_hit_tokens_total": 6,
    }
    assert {name: value(f"minivault_{name}", {"model": "m"}) for name in counts} == counts
    assert ends.ended == [("a", STOP)]
    assert (runs[0].text, runs[1].text) == ("AAA!", "AAA")
    for run in runs:
        assert (run.first_token_at, run.last_token_at, run.cached_tokens) == (3.0, 5.5, 3)


def test_a_step_that_brought_nothing_is_counted() -> None:
    metrics = WorkerMetrics()
    made, _ = publisher(MemoryLog(), metrics)
    made.send(STEP)
    made.settle(10)
    made.close()
    count = metrics.registry.get_sample_value("minivault_engine_step_seconds_count", {"model": "m"})
    assert count == 1


def test_what_was_sent_can_be_waited_for() -> None:
    log = MemoryLog()
    made, _ = publisher(log)
    made.settle(10)  # nothing was sent
    for token_id in b"hello":
        made.pass_on(job_run("a"), output(token_id))
        log.events.clear()
        made.send(STEP)
        made.settle(10)
        assert log.events["a"]
    made.close()


def test_nobody_waits_long_for_a_log_that_takes_nothing() -> None:
    log = MemoryLog()
    made, _ = publisher(log)
    log.gate.clear()
    made.pass_on(job_run("a"), output(65))
    made.send(STEP)
    made.settle(0.001)
    assert log.events == {}
    log.gate.set()
    made.close()


@pytest.mark.parametrize(
    "failure",
    [
        redis.exceptions.ConnectionError("gone"),
        redis.exceptions.TimeoutError("hangs"),
        redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"),
        redis.exceptions.OutOfMemoryError("OOM command not allowed"),
    ],
)
def test_events_wait_for_redis(failure: redis.exceptions.RedisError) -> None:
    log = MemoryLog()
    log.failures = [failure, failure]
    made, ends = publisher(log)
    made.pass_on(job_run("a"), output(65))
    made.send(STEP)
    until(lambda: "a" in log.events, what="the event")
    made.close()
    assert log.events["a"] == [Token(seq=1, ids=(65,), text="A")]
    assert ends.crashes == 0


def test_what_time_does_not_mend_is_not_waited_for() -> None:
    log = MemoryLog()
    log.failures = [redis.exceptions.ResponseError("WRONGTYPE")]
    made, ends = publisher(log)
    made.pass_on(job_run("a"), output(65))
    made.send(STEP)
    until(lambda: ends.crashes == 1, what="the end of the thread")


def test_a_publisher_that_closes_waits_no_more() -> None:
    log = MemoryLog()
    log.failures = [redis.exceptions.ConnectionError("gone")] * 1000
    made, ends = publisher(log)
    made.pass_on(job_run("a"), output(65))
    made.send(STEP)
    until(lambda: len(log.failures) < 1000, what="the first attempt")
    made.close()
    assert ends.crashes == 1
    assert log.events == {}
