"""The client, and the commands on it, against a service that misbehaves on demand."""

import io
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import httpx
import pytest

from cli import patience
from cli.client import Client, service_url
from cli.transport import RequestRefusedError, ServiceUnavailableError
from shared.configuration import load_settings
from tests.support.api import free_port
from tests.support.commands import minivault
from tests.support.stand_in import Reply, Seen, serving


def frame(seq: int | None, name: str, **data: object) -> bytes:
    """One without a number is a remark."""
    number = b"" if seq is None else f"id: {seq}\r\n".encode()
    return number + f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()


QUEUED = frame(1, "queued", id="job-1", model="m", position=0)
PARIS = frame(2, "token", text="Par")
REST = frame(3, "token", text="is\u2028é")
ENDING = {"finish_reason": "stop", "usage": {"total_tokens": 3}, "timings": {"total": 1.0}}
DONE = frame(4, "done", **ENDING)
MOVED = frame(None, "queued", id="job-1", model="m", position=7, estimate=21.4)
GIVEN_UP = frame(None, "error", code="redis_unavailable", message="gone")
FAILED = frame(3, "error", code="worker_lost", message="It broke.")
AGAIN = frame(4, "queued", id="job-1", model="m", position=0)
DONE_AFTER_ALL = frame(6, "done", **ENDING)
ENDED = Reply(204)
PROBLEM = {"type": "about:blank", "title": "x", "status": 422, "code": "invalid_request"}


class Service:
    """Answers requests in order, and remembers them."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def sse(*frames: bytes, cut: bool = False) -> Reply:
    return Reply(headers={"Content-Type": "text/event-stream"}, body=b"".join(frames), cut=cut)


def problem(status: int, detail: str, retry_after: int | None = None, **more: object) -> Reply:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Reply(status, headers, json.dumps({**PROBLEM, "detail": detail, **more}).encode())


def answer(**document: object) -> Reply:
    return Reply(body=json.dumps(document).encode())


class Clock:
    """Time that passes only where the client waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.on_sleep()


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        patience, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep)
    )
    return clock


def test_a_stream_is_its_events() -> None:
    service = Service(sse(QUEUED, b": ping\r\n\r\n", PARIS, REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert "".join(event.text for event in events) == "Paris\u2028é"
    assert json.loads(service.seen[0].body) == {"prompt": "x"}
    assert service.seen[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("cut", [True, False], ids=["broken off", "ended early"])
def test_a_dropped_stream_goes_on_behind_the_last_event(*, cut: bool) -> None:
    service = Service(sse(QUEUED, PARIS, cut=cut), sse(PARIS, REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    again = service.seen[1]
    assert (again.method, again.path) == ("GET", "/jobs/job-1/events")
    assert again.headers["last-event-id"] == "2"


def test_a_busy_service_is_asked_again_when_it_says_so(clock: Clock) -> None:
    service = Service(
        sse(QUEUED, PARIS, cut=True),
        problem(503, "no Redis", retry_after=7),
        problem(503, "no Redis"),
        Reply(502, body=b"<html>"),  # a proxy's word for an API that restarts
        sse(REST, DONE),
    )
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert clock.slept == [0.25, 7, 1, 2]


def test_a_service_that_is_away_for_a_while_is_waited_for(clock: Clock) -> None:
    port = free_port()
    second = Service(sse(REST, DONE))
    with ExitStack() as later, Client(f"http://127.0.0.1:{port}") as client:
        stream = client.stream({"prompt": "x"})
        with serving(Service(sse(QUEUED, PARIS, cut=True)), port):
            events = [next(stream), next(stream)]

        def come_back() -> None:
            if len(clock.slept) == 3:
                later.enter_context(serving(second, port))

        clock.on_sleep = come_back
        events += list(stream)
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert clock.slept == [0.25, 0.5, 1]


@pytest.mark.parametrize("kind", ["stream", "submit"])
def test_a_submission_whose_answer_is_lost_is_sent_again_under_its_key(kind: str) -> None:
    lost = Reply(lost=True)
    if kind == "stream":
        service = Service(lost, lost, sse(QUEUED, PARIS, REST, DONE))
    else:
        service = Service(lost, lost, answer(id="job-1"))
    with serving(service) as url, Client(url) as client:
        if kind == "stream":
            assert [event.seq for event in client.stream({"prompt": "x"})] == [1, 2, 3, 4]
        else:
            assert client.submit({"prompt": "x"}) == {"id": "job-1"}
    keys = {seen.headers["idempotency-key"] for seen in service.seen}
    assert len(service.seen) == 3
    assert len(keys) == 1
    assert {seen.body for seen in service.seen} == {b'{"prompt":"x"}'}


def test_every_submission_has_a_key_of_its_own() -> None:
    service = Service(answer(id="job-1"))
    with serving(service) as url, Client(url) as client:
        client.submit({"prompt": "x"})
        client.submit({"prompt": "x"})
    first, second = (seen.headers["idempotency-key"] for seen in service.seen)
    assert first != second


def test_a_stream_lost_before_its_first_event_is_submitted_again() -> None:
    service = Service(sse(cut=True), sse(QUEUED, PARIS, REST, DONE))
    with serving(service) as url, Client(url) as client:
        assert [event.seq for event in client.stream({"prompt": "x"})] == [1, 2, 3, 4]
    assert [seen.path for seen in service.seen] == 2 * ["/generate/stream"]


def test_remarks_are_passed_on_and_disturb_no_numbers() -> None:
    service = Service(sse(QUEUED, MOVED, cut=True), sse(MOVED, PARIS, MOVED, REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 0, 0, 2, 0, 3, 4]
    assert events[1].data["position"] == 7
    assert service.seen[1].headers["last-event-id"] == "1"


def test_an_error_without_a_number_ends_the_connection_not_the_job() -> None:
    service = Service(sse(QUEUED, PARIS, GIVEN_UP), sse(REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.name for event in events] == ["queued", "token", "token", "done"]


def test_a_job_that_was_put_back_goes_on_behind_its_error() -> None:
    service = Service(sse(QUEUED, PARIS, FAILED, AGAIN, frame(5, "token", text="!"), cut=True))
    service.replies.append(sse(DONE_AFTER_ALL))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1].name == "done"


def test_a_connection_that_breaks_behind_an_error_is_made_again_for_what_may_follow() -> None:
    service = Service(sse(QUEUED, PARIS, FAILED, cut=True), sse(AGAIN, DONE_AFTER_ALL))
    with serving(service) as url, Client(url) as client:
        assert [event.seq for event in client.stream({"prompt": "x"})] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("then", [ENDED, problem(410, "Expired."), problem(503, "gone")])
def test_an_error_is_the_end_if_nothing_is_known_to_follow_it(then: Reply) -> None:
    service = Service(sse(QUEUED, PARIS, FAILED, cut=True), then)
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.name for event in events] == ["queued", "token", "error"]


def test_a_job_is_followed_from_where_one_likes() -> None:
    service = Service(sse(REST, DONE), ENDED)
    with serving(service) as url, Client(url) as client:
        assert [event.seq for event in client.events("job-1", after=2)] == [3, 4]
        assert list(client.events("job-1", after=4)) == []
    assert [seen.headers["last-event-id"] for seen in service.seen] == ["2", "4"]


def test_a_stream_that_stays_lost_names_its_job_and_last_event(clock: Clock) -> None:
    service = Service(sse(QUEUED, PARIS, cut=True), problem(503, "gone"))
    with serving(service) as url, Client(url) as client:
        stream = client.stream({"prompt": "x"})
        assert [next(stream).seq, next(stream).seq] == [1, 2]
        with pytest.raises(ServiceUnavailableError, match="job-1 was lost after event 2"):
            next(stream)
    assert patience.SECONDS - 4 < sum(clock.slept) <= patience.SECONDS
    assert max(clock.slept) == 4


def test_pings_are_signs_of_life(clock: Clock) -> None:
    """Each connection brings a ping and breaks; together they last longer than the patience."""
    ping = sse(b": ping\r\n\r\n", cut=True)
    service = Service(sse(QUEUED, cut=True), *40 * [ping], sse(PARIS, REST, DONE))
    with serving(service) as url, Client(url) as client:
        assert [event.seq for event in client.stream({"prompt": "x"})] == [1, 2, 3, 4]
    assert sum(clock.slept) > patience.SECONDS


@pytest.mark.parametrize(("status", "text"), [(404, "No such job."), (410, "It has expired.")])
def test_a_job_that_is_gone_is_not_sought_for_long(status: int, text: str) -> None:
    service = Service(sse(QUEUED, cut=True), problem(status, text))
    with serving(service) as url, Client(url) as client:
        stream = client.stream({"prompt": "x"})
        next(stream)
        with pytest.raises(RequestRefusedError, match=rf"^{text}$"):
            next(stream)
    assert len(service.seen) == 2


def test_a_refusal_names_the_fields() -> None:
    errors = [{"field": "top_p", "message": "too large"}, {"field": "x", "message": "unknown"}]
    service = Service(problem(422, "Bad request.", errors=errors))
    with (
        serving(service) as url,
        Client(url) as client,
        pytest.raises(RequestRefusedError) as refused,
    ):
        client.submit({"prompt": "x"})
    assert str(refused.value) == "Bad request. top_p: too large x: unknown"


def test_an_answer_that_is_no_problem_document_is_still_one_line() -> None:
    service = Service(Reply(500, body=b"<html>\nOops"))
    with (
        serving(service) as url,
        Client(url) as client,
        pytest.raises(RequestRefusedError, match=r"^500 Internal Server Error$"),
    ):
        client.submit({"prompt": "x"})


@pytest.mark.parametrize("kind", ["stream", "submit"])
def test_what_is_no_minivault_is_told(kind: str) -> None:
    page = Reply(headers={"Content-Type": "text/html"}, body=b"<html>Welcome")
    with (
        serving(Service(page)) as url,
        Client(url) as client,
        pytest.raises(RequestRefusedError, match=f"What answers at {url} is not MiniVault"),
    ):
        list(client.stream({})) if kind == "stream" else client.submit({})


@pytest.mark.parametrize("status", [429, 503])
def test_a_refused_submission_says_when_to_come_back_and_is_not_repeated(status: int) -> None:
    service = Service(problem(status, "Too much.", retry_after=12))
    with (
        serving(service) as url,
        Client(url) as client,
        pytest.raises(ServiceUnavailableError, match=r"^Too much\. Try again in 12 s\.$"),
    ):
        next(client.stream({"prompt": "x"}))
    assert len(service.seen) == 1


def test_a_job_is_read_and_cancelled_by_its_id() -> None:
    service = Service(answer(id="job-1", status="running"), answer(id="job-1", status="cancelled"))
    with serving(service) as url, Client(url) as client:
        assert client.job("job-1")["status"] == "running"
        assert client.cancel("job-1")["status"] == "cancelled"
    assert [(seen.method, seen.path) for seen in service.seen] == [
        ("GET", "/jobs/job-1"),
        ("DELETE", "/jobs/job-1"),
    ]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("box", "http://box:8000"),
    ],
)
def test_the_service_is_sought_where_the_settings_put_it(host: str, url: str) -> None:
    assert service_url(load_settings(host=host)) == url


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(minivault, monkeypatch)


def test_stream_prints_the_text(run, capsys) -> None:
    with serving(Service(sse(QUEUED, MOVED, PARIS, REST, DONE))) as url:
        assert run("stream", "x", "--url", url) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Paris\u2028é\n", "")


def test_stream_json_is_a_line_per_event(run, capsys) -> None:
    with serving(Service(sse(QUEUED, MOVED, DONE))) as url:
        assert run("stream", "x", "--url", url, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["id"]) for line in lines] == [
        ("queued", 1),
        ("queued", None),
        ("done", 4),
    ]
    assert lines[0]["data"] == {"id": "job-1", "model": "m", "position": 0}


def test_a_failed_job_is_code_1_behind_what_there_was_of_it(run, capsys) -> None:
    with serving(Service(sse(QUEUED, PARIS, FAILED))) as url:
        assert run("stream", "x", "--url", url) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Par\n", "It broke.\n")


def test_a_failed_job_that_was_put_back_and_ended_well_is_a_success(run, capsys) -> None:
    with serving(Service(sse(QUEUED, PARIS, FAILED, AGAIN, DONE_AFTER_ALL))) as url:
        assert run("stream", "x", "--url", url) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Par\n", "")


def test_generate_prints_the_whole_response_at_its_end(run, capsys) -> None:
    service = Service(sse(QUEUED, PARIS, cut=True), sse(REST, DONE))
    with serving(service) as url:
        assert run("generate", "x", "--url", url) == 0
    assert capsys.readouterr().out == "Paris\u2028é\n"


def test_generate_json_is_what_the_service_would_say_at_once(run, capsys) -> None:
    with serving(Service(sse(QUEUED, PARIS, REST, DONE))) as url:
        assert run("generate", "x", "--url", url, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "id": "job-1",
        "model": "m",
        "response": "Paris\u2028é",
        **ENDING,
    }


def test_generate_of_a_failed_job_prints_nothing_but_the_reason(run, capsys) -> None:
    with serving(Service(sse(QUEUED, PARIS, FAILED))) as url:
        assert run("generate", "x", "--url", url) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "It broke.\n")


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_an_interrupt_cancels_the_job(run, monkeypatch, command: str) -> None:
    """As Ctrl-C does while the client waits for more."""

    class Interrupting(httpx.Client):
        def send(self, request, **options):
            response = super().send(request, **options)
            if request.url.path == "/generate/stream":
                response.stream = _Broken(response.stream)
            return response

    class _Broken(httpx.SyncByteStream):
        def __init__(self, stream):
            self._stream = stream

        def __iter__(self):
            yield from self._stream
            raise KeyboardInterrupt

        def close(self):
            self._stream.close()

    monkeypatch.setattr("httpx.Client", Interrupting)
    service = Service(sse(QUEUED, PARIS), answer(id="job-1", status="running"))
    with serving(service) as url:
        assert run(command, "x", "--url", url) == 130
    assert [(seen.method, seen.path) for seen in service.seen] == [
        ("POST", "/generate/stream"),
        ("DELETE", "/jobs/job-1"),
    ]


def test_submit_prints_the_id(run, capsys) -> None:
    service = Service(Reply(202, body=b'{"id": "job-1", "status": "queued"}'))
    with serving(service) as url:
        assert run("submit", "x", "--url", url, "--priority", "3", "--ttl", "60") == 0
    assert capsys.readouterr().out == "job-1\n"
    (seen,) = service.seen
    assert (seen.method, seen.path) == ("POST", "/jobs")
    assert json.loads(seen.body) == {"prompt": "x", "priority": 3, "ttl": 60}


def test_follow_prints_a_job_from_its_beginning(run, capsys) -> None:
    service = Service(sse(QUEUED, PARIS, cut=True), sse(REST, DONE))
    with serving(service) as url:
        assert run("jobs", "follow", "job-1", "--url", url) == 0
    assert capsys.readouterr().out == "Paris\u2028é\n"
    assert service.seen[0].headers["last-event-id"] == "0"


def test_cancel_tells_what_has_become_of_each_job(run, capsys) -> None:
    service = Service(
        Reply(202, body=b'{"id": "job-1", "status": "running"}'), answer(id="job-2", status="done")
    )
    with serving(service) as url:
        assert run("jobs", "cancel", "job-1", "job-2", "--url", url) == 0
    assert capsys.readouterr().out == "job-1\trunning\njob-2\tdone\n"


def test_generate_sends_only_what_was_given(run) -> None:
    service = Service(sse(QUEUED, PARIS, REST, DONE))
    with serving(service) as url:
        code = run(
            *("generate", "x", "--url", url, "--temperature", "0", "--seed", "0"),
            *("--stop", "a", "--stop", "b", "--raw"),
        )
    assert code == 0
    assert json.loads(service.seen[0].body) == {
        "prompt": "x",
        "temperature": 0,
        "seed": 0,
        "stop": ["a", "b"],
        "raw": True,
    }


def test_a_prompt_can_come_from_standard_input(run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nlong prompt"))
    service = Service(sse(QUEUED, DONE))
    with serving(service) as url:
        assert run("generate", "-", "--url", url) == 0
    assert json.loads(service.seen[0].body) == {"prompt": "a\nlong prompt"}


@pytest.mark.parametrize("command", ["generate", "stream", "submit"])
def test_nobody_there_is_code_75_and_one_line(run, capsys, command) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run(command, "x", "--url", url) == 75
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"No service answers at {url}. Start it with `minivault up`, or pass --url.\n"
    )
