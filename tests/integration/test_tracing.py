"""One trace from a request to its row: a real API, real workers, a real OTLP receiver."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from structlog.testing import capture_logs

from shared.settings import Settings
from shared.spans import OpenSpan
from shared.tracing import Tracing
from tests.support.api import api_process, running_api, stream
from tests.support.checks import rows, wait_until_over
from tests.support.collector import Collector, Span, collector
from tests.support.jobs import MODEL, Submitter, generation, under_way
from tests.support.poll import until
from tests.support.workers import crew

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENTS_SPAN = "b7ad6b7169203331"
PROMPT = "a prompt that no span may hold"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
NOBODY = "http://127.0.0.1:9"
LOST = "the collector takes no traces"
PHASES = ["queue", "prefill", "decode", "save"]


@pytest.fixture
def served(settings: Settings) -> Settings:
    return settings.model_copy(update={"slots": 4})


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as made:
        monkeypatch.setenv(ENDPOINT, made.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield made


def headers(flags: str = "01") -> dict[str, str]:
    return {
        "traceparent": f"00-{TRACE}-{CLIENTS_SPAN}-{flags}",
        "tracestate": "vendor=what-it-likes",
        "X-Request-ID": "asked-by-a-test",
    }


def ask(url: str, **more: str) -> str:
    """The job's id, once it is done."""
    events = stream(url, {"prompt": PROMPT, "temperature": 0}, **more)
    assert events[-1].event == "done"
    job_id: str = events[0].data["id"]
    return job_id


def collected(receiver: Collector, *names: str) -> list[Span]:
    """All spans, once those of these names have come."""
    until(lambda: set(names) <= {span.name for span in receiver.spans}, what=f"{names}")
    return receiver.spans


def test_a_request_is_one_trace(served: Settings, traced: Collector, tmp_path: Path) -> None:
    api_log = tmp_path / "api.log"
    with (
        crew(served, step_seconds=0.005) as workers,
        api_process(served, api_log, LOG_FORMAT="json") as (_, url),
    ):
        workers.start_one(MINIVAULT_LOG_FORMAT="json")
        job_id = ask(url, **headers())
        assert httpx.get(f"{url}/readyz").is_success  # probes leave no span
        spans = collected(traced, "POST /generate/stream", *PHASES)
    assert [span.name for span in spans] == ["POST /generate/stream", *PHASES]
    assert {span.trace for span in spans} == {TRACE}
    request, queue, prefill, decode, save = spans
    assert request.parent == CLIENTS_SPAN
    assert {span.parent for span in spans[1:]} == {request.id}
    assert request.start <= queue.start
    assert queue.end == prefill.start
    assert prefill.end == decode.start
    assert decode.end <= save.start
    assert save.end <= request.end
    assert not any(span.failed for span in spans)

    assert (request.service, decode.service) == ("minivault-api", "minivault-worker")
    row = rows(served)[job_id]
    assert row.request_id == "asked-by-a-test"
    for span in spans:
        assert span.attributes["minivault.request_id"] == row.request_id
        assert span.attributes["minivault.job_id"] == job_id
    assert (
        request.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/generate/stream",
            "http.response.status_code": 200,
        }.items()
    )
    assert (
        decode.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": MODEL,
            "gen_ai.usage.input_tokens": len(PROMPT),
            "gen_ai.usage.output_tokens": len(PROMPT),
            "gen_ai.response.finish_reasons": ("stop",),
            "minivault.attempt": 1,
            "minivault.resumed": False,
        }.items()
    )
    assert (decode.end - decode.start) / 1e9 == pytest.approx(row.decode_seconds, abs=0.002)
    assert not any(b"no span may hold" in body for body in traced.raw)

    # The same ids in the logs of both processes.
    worker_log = served.logs_dir / "workers.log"
    told = [json.loads(line) for log in (api_log, worker_log) for line in _lines(log)]
    about = [line for line in told if line.get("job_id") == job_id]
    assert {line["event"] for line in about} == {
        "job submitted",
        "request",
        "job taken",
        "job ended",
    }
    assert {(line["request_id"], line["trace_id"]) for line in about} == {(row.request_id, TRACE)}


def _lines(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "asked-by-a-test" in line]


def test_a_killed_worker_and_its_successor_are_in_one_trace(
    served: Settings, redis: Redis, traced: Collector
) -> None:
    trace = {"traceparent": headers()["traceparent"]}
    request = generation("x" * 200, trace=trace)
    with crew(served, step_seconds=0.01, hurried=True) as workers:
        first = workers.start_one()
        Submitter(served).submit(request)
        under_way(redis, [request])
        collected(traced, "prefill")
        first.kill()
        workers.report(first)
        workers.start_one()
        wait_until_over(redis, [request])
        spans = collected(traced, "decode", "save")
    assert {(span.trace, span.parent) for span in spans} == {(TRACE, CLIENTS_SPAN)}
    assert [(span.name, span.attributes["minivault.attempt"]) for span in spans] == [
        ("queue", 1),
        ("prefill", 1),
        ("recover", 1),  # the decode that was killed was never over
        ("prefill", 2),
        ("decode", 2),
        ("save", 2),
    ]
    recover, again, decode = spans[2:5]
    kept = recover.attributes["minivault.tokens_kept"]
    assert kept > 10
    assert recover.attributes["minivault.lost_worker"] == first.name
    assert recover.attributes["minivault.outcome"] == "put_back"
    assert again.attributes["minivault.resumed"] is True
    assert again.attributes["minivault.resumed_tokens"] == kept
    assert decode.attributes["gen_ai.usage.output_tokens"] == 200 - kept


def test_what_fails_is_marked(served: Settings, traced: Collector) -> None:
    """And a job that is cancelled has not failed."""
    with crew(served, step_seconds=0.005) as workers, running_api(served, queue_ttl=1.0) as url:
        bad = httpx.post(f"{url}/generate", json={"prompt": "", "no": 1})
        assert bad.status_code == 422
        late = httpx.post(f"{url}/jobs", json={"prompt": "late", "temperature": 0}).json()["id"]
        time.sleep(1.1)
        workers.start_one()
        until(lambda: traced.named("queue"), what="the end of the wait")
        long = {"prompt": "y" * 900, "temperature": 0, "max_tokens": 900}
        running = httpx.post(f"{url}/jobs", json=long).json()["id"]
        until(lambda: "yyy" in httpx.get(f"{url}/jobs/{running}").text, what="some tokens")
        httpx.delete(f"{url}/jobs/{running}")
        collected(traced, "decode", "DELETE /jobs/{job_id}")
    (expired,) = (s for s in traced.named("queue") if s.attributes["minivault.job_id"] == late)
    assert expired.failed
    assert expired.attributes["error.type"] == "expired"
    assert expired.end - expired.start > 1e9
    (cut,) = traced.named("decode")
    assert not cut.failed
    assert cut.attributes["gen_ai.response.finish_reasons"] == ("cancelled",)
    (refused,) = traced.named("POST /generate")
    assert not refused.failed  # the client's mistake, as the conventions have it
    assert refused.attributes["http.response.status_code"] == 422


def test_a_collector_that_does_not_answer_changes_nothing(
    served: Settings, traced: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's takes connections and says nothing; the API's does not even do that."""
    traced.hanging.set()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    logs = [tmp_path / "api.log", served.logs_dir / "workers.log"]
    logs[1].unlink(missing_ok=True)
    with crew(served) as workers:
        worker = workers.start_one()
        monkeypatch.setenv(ENDPOINT, NOBODY)
        with api_process(served, logs[0]) as (api, url):
            for log in logs:
                until(lambda log=log: ask(url) and LOST in log.read_text(), what=f"a line in {log}")
            began = time.monotonic()
            for _ in range(20):
                ask(url)
            assert time.monotonic() - began < 5
            for process in (api, worker.process):
                began = time.monotonic()
                process.terminate()
                assert process.wait(timeout=10) == 0
                assert time.monotonic() - began < 3.5
    for log in logs:
        assert log.read_text().count(LOST) == 1
        assert "Traceback" not in log.read_text()
        assert "retrying" not in log.read_text()


def send(**attributes: str) -> tuple[OpenSpan | None, Tracing]:
    """A request's span and one below it, sent as a process does that ends."""
    tracing = Tracing("test")
    tracing.start()
    span = tracing.begin(headers())
    if span is not None:
        tracing.write("below", span.context, 1.0, 2.0, attributes)
        span.end("request", attributes)
    tracing.close()
    return span, tracing


def test_a_decision_not_to_sample_is_kept(
    traced: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = Tracing("test")
    tracing.start()
    unsampled = tracing.begin(headers(flags="00"))
    assert unsampled is not None
    assert (unsampled.trace_id, unsampled.context["traceparent"][-2:]) == (TRACE, "00")
    tracing.write("below", unsampled.context, 1.0, 2.0, {})
    unsampled.end("request", {})
    tracing.close()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    send()
    assert traced.spans == []


def test_a_vendors_state_goes_with_the_trace(traced: Collector) -> None:
    span, _ = send()
    assert span is not None
    assert span.context["tracestate"] == "vendor=what-it-likes"
    assert [each.name for each in traced.spans] == ["below", "request"]


def test_the_names_of_services_are_the_operators(
    traced: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    send()
    assert {each.service for each in traced.spans} == {"mine"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "mine"},
        {ENDPOINT: NOBODY, "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: NOBODY, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_it_is_off_unless_a_collector_is_named(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as told:
        assert send()[0] is None
    assert told == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER can only be otlp"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "can only be http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "traces are not sent"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {ENDPOINT: NOBODY, **variables}.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as told:
        assert send()[0] is None
    (line,) = told
    assert said in line["event"]
    assert line["log_level"] == "warning"


def test_without_the_extra_one_line_says_so(
    traced: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "shared.spans", raising=False)
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, exporter, None)
    with capture_logs() as told:
        assert send()[0] is None
    (line,) = told
    assert "minivault[tracing]" in line["install"]


_IMPORTED = """
import sys
import api.main, worker.service
from shared.tracing import Tracing
Tracing("test").start()
# redis-py and FastAPI import OpenTelemetry's API by themselves, wherever it is installed.
ours = ("shared.spans", "opentelemetry.sdk.trace", "opentelemetry.exporter", "requests")
print([name for name in ours if name in sys.modules])
"""


def test_where_nobody_wants_traces_nothing_is_imported_for_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
