"""The client, and the two commands on it, against a service that misbehaves on demand."""

import io
import json
import sys
from functools import partial

import pytest

from cli.client import Client, RequestRefusedError, ServiceUnavailableError, service_url
from shared.settings import load_settings
from tests.support.api import free_port
from tests.support.commands import minivault
from tests.support.stand_in import Reply, Seen, serving


def frame(seq: int, name: str, **data: object) -> bytes:
    return f"id: {seq}\r\nevent: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()


QUEUED = frame(1, "queued", id="job-1", model="m", position=0)
PARIS = frame(2, "token", text="Par")
REST = frame(3, "token", text="is\u2028é")
DONE = frame(4, "done", finish_reason="stop", text="!")
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


def problem(status: int, detail: str, **more: object) -> Reply:
    return Reply(status, body=json.dumps({**PROBLEM, "detail": detail, **more}).encode())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("cli.client._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("cli.client._RECONNECT_SECONDS", 0.5)


def test_a_stream_is_its_events() -> None:
    service = Service(sse(QUEUED, b": ping\r\n\r\n", PARIS, REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert "".join(event.text for event in events) == "Paris\u2028é!"
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


def test_a_busy_service_is_asked_again_for_a_stream_that_was_running() -> None:
    busy = problem(503, "no Redis")
    service = Service(sse(QUEUED, PARIS, cut=True), busy, busy, sse(REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.seq for event in events] == [1, 2, 3, 4]


def test_an_event_without_a_number_ends_the_connection_not_the_job() -> None:
    lost = b'event: error\r\ndata: {"code": "redis_unavailable", "message": "gone"}\r\n\r\n'
    service = Service(sse(QUEUED, PARIS, lost), sse(REST, DONE))
    with serving(service) as url, Client(url) as client:
        events = list(client.stream({"prompt": "x"}))
    assert [event.name for event in events] == ["queued", "token", "token", "done"]


def test_a_stream_that_stays_lost_names_its_job_and_last_event() -> None:
    service = Service(sse(QUEUED, PARIS, cut=True), problem(503, "gone"))
    with serving(service) as url, Client(url) as client:
        stream = client.stream({"prompt": "x"})
        assert [next(stream).seq, next(stream).seq] == [1, 2]
        with pytest.raises(ServiceUnavailableError, match="job-1 was lost after event 2"):
            next(stream)


def test_a_job_that_has_expired_is_not_sought_forever() -> None:
    service = Service(sse(QUEUED, cut=True), problem(404, "No such job."))
    with (
        serving(service) as url,
        Client(url) as client,
        pytest.raises(RequestRefusedError, match=r"No such job\."),
    ):
        list(client.stream({"prompt": "x"}))


def test_a_refusal_names_the_fields() -> None:
    errors = [{"field": "top_p", "message": "too large"}, {"field": "x", "message": "unknown"}]
    service = Service(problem(422, "Bad request.", errors=errors))
    with (
        serving(service) as url,
        Client(url) as client,
        pytest.raises(RequestRefusedError) as refused,
    ):
        client.generate({"prompt": "x"})
    assert str(refused.value) == "Bad request. top_p: too large x: unknown"


def test_an_answer_that_is_no_problem_document_is_still_one_line() -> None:
    service = Service(Reply(502, body=b"<html>\nBad gateway"))
    with (
        serving(service) as url,
        Client(url) as client,
        pytest.raises(RequestRefusedError, match=r"^502 Bad Gateway$"),
    ):
        client.generate({"prompt": "x"})


def test_a_limit_says_when_to_come_back() -> None:
    limited = problem(429, "Too many requests.")
    limited.headers["Retry-After"] = "12"
    with (
        serving(Service(limited)) as url,
        Client(url) as client,
        pytest.raises(ServiceUnavailableError, match="Try again in 12 seconds"),
    ):
        client.generate({"prompt": "x"})


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
    with serving(Service(sse(QUEUED, PARIS, REST, DONE))) as url:
        assert run("stream", "x", "--url", url) == 0
    assert capsys.readouterr().out == "Paris\u2028é!\n"


def test_stream_json_is_a_line_per_event(run, capsys) -> None:
    with serving(Service(sse(QUEUED, DONE))) as url:
        assert run("stream", "x", "--url", url, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["queued", "done"]
    assert lines[0] == {
        "event": "queued",
        "id": 1,
        "data": {"id": "job-1", "model": "m", "position": 0},
    }


def test_a_failed_job_is_code_1_behind_what_there_was_of_it(run, capsys) -> None:
    failed = frame(3, "error", code="generation_failed", message="It broke.")
    with serving(Service(sse(QUEUED, PARIS, failed))) as url:
        assert run("stream", "x", "--url", url) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("Par\n", "It broke.\n")


def test_generate_sends_only_what_was_given(run, capsys) -> None:
    service = Service(Reply(body=b'{"response": "Paris."}'))
    with serving(service) as url:
        code = run(
            *("generate", "x", "--url", url, "--temperature", "0", "--seed", "0"),
            *("--stop", "a", "--stop", "b", "--raw"),
        )
    assert code == 0
    assert capsys.readouterr().out == "Paris.\n"
    assert json.loads(service.seen[0].body) == {
        "prompt": "x",
        "temperature": 0,
        "seed": 0,
        "stop": ["a", "b"],
        "raw": True,
    }


def test_a_prompt_can_come_from_standard_input(run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nlong prompt"))
    service = Service(Reply(body=b'{"response": ""}'))
    with serving(service) as url:
        assert run("generate", "-", "--url", url) == 0
    assert json.loads(service.seen[0].body) == {"prompt": "a\nlong prompt"}


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_nobody_there_is_code_75_and_one_line(run, capsys, command) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run(command, "x", "--url", url) == 75
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"No service answers at {url}. Start it with `minivault up`, or pass --url.\n"
    )
