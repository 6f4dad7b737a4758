"""The engine in process, driven as a server would be."""

import os
import threading
from types import SimpleNamespace

import pytest

from bench import engine
from bench.drivers.engine import EngineAlone
from bench.workload import Ask, at_once
from worker.engine.fake import CodePoints, FakeEngine
from worker.models import LoadedModel


def fake(**options):
    prompts = SimpleNamespace(encode=lambda request: CodePoints().encode(request.prompt))
    return LoadedModel("fake", FakeEngine(**options), prompts)


def test_all_run_at_once_as_far_as_there_are_slots():
    model = fake(slots=4)
    streams = engine.run(model, at_once(["abcdef"] * 6, 5))
    assert model.engine.batch_sizes[0] == 4
    assert [stream.tokens for stream in streams] == [5] * 6
    assert [stream.prompt_tokens for stream in streams] == [6] * 6
    assert not any(stream.failed for stream in streams)


def test_no_more_than_the_concurrency_run():
    model = fake(slots=4)
    streams = engine.run(model, at_once(["abcdef"] * 6, 5), concurrency=2)
    assert max(model.engine.batch_sizes) == 2
    assert streams[0].started < streams[5].started


def test_a_request_is_not_begun_before_it_is_due():
    first, second = engine.run(fake(), [Ask("abc", 2), Ask("abc", 2, at=0.2)])
    assert second.started - first.started == pytest.approx(0.2, abs=1e-6)
    assert second.arrivals[0] >= second.started


def test_nothing_is_begun_after_the_time():
    model = fake(step_seconds=0.01)
    streams = engine.run(model, at_once(["abcdef"] * 1000, 5), concurrency=2, seconds=0.1)
    assert 2 <= len(streams) < 1000
    assert all(stream.tokens == 5 for stream in streams)


def test_the_driver_reaches_it_through_pipes():
    orders, ordered = os.pipe()
    answered, answers = os.pipe()
    with (
        os.fdopen(orders, "rb") as orders,
        os.fdopen(ordered, "wb") as ordered,
        os.fdopen(answered, "rb") as answered,
        os.fdopen(answers, "wb") as answers,
    ):
        child = threading.Thread(target=engine.serve, args=(fake(), orders, answers))
        child.start()
        driver = EngineAlone(SimpleNamespace(stdin=ordered, stdout=answered))
        once = driver.run(at_once(["abcdef"], 3))
        again = driver.run(at_once(["abc", "abcd"], 2, raw=True), concurrency=1, seconds=60)
        ordered.close()
        child.join(10)
    assert [stream.tokens for stream in [*once, *again]] == [3, 2, 2]
    assert len(once[0].arrivals) == 3
