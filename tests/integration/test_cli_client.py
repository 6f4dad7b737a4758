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

from cli import async_client, client, patience, streams
from cli.client import (
    ENDLESS,
    Cancelled,
    Event,
    Failed,
    JobCancelledError,
    JobFailedError,
    Loading,
    NotMiniVaultError,
    Queued,
    RequestRefusedError,
    Resumed,
    ServiceUnavailableError,
    Started,
    Token,
    service_url,
)
from shared.configuration import load_settings
from tests.support.api import free_port
from tests.support.awaiting import AwaitingClient
from tests.support.commands import minivault
from tests.support.stand_in import Reply, Seen, serving


def frame(seq: int | None, name: str, **data: object) -> bytes:
    """One without a number is a remark."""
    number = b"" if seq is None else f"id: {seq}\r\n".encode()
    return number + f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()


QUEUED = frame(1, "queued", id="job-1", model="m", position=0)
PARIS = frame(2, "token", text="Par")
REST = frame(3, "token", text="is\u2028é")
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0, "total_tokens": 3}
TIMINGS = {"queue": 0.1, "prefill": 0.2, "decode": 0.7, "total": 1.0}
ENDING = {"finish_reason": "stop", "usage": USAGE, "timings": TIMINGS}
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


def answer(code: int = 200, **changes: object) -> Reply:
    job = {"id": "job-1", "model": "m", "status": "queued", "response": "", "error": None}
    return Reply(code, body=json.dumps(job | changes).encode())


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

    async def sleep(seconds: float) -> None:
        clock.sleep(seconds)

    time = SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep)
    for module in (patience, client, streams):
        monkeypatch.setattr(module, "time", time)
    for module in (async_client, streams):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    return clock


@pytest.fixture(params=[client.Client, AwaitingClient], ids=["sync", "async"])
def client_to(request):
    return request.param


def test_a_stream_is_its_events(client_to) -> None:
    service = Service(sse(QUEUED, b": ping\r\n\r\n", PARIS, REST, DONE))
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert "".join(event.text for event in events) == "Paris\u2028é"
    assert json.loads(service.seen[0].body) == {"prompt": "x"}
    assert service.seen[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("cut", [True, False], ids=["broken off", "ended early"])
def test_a_dropped_stream_goes_on_behind_the_last_event(client_to, *, cut: bool) -> None:
    service = Service(sse(QUEUED, PARIS, cut=cut), sse(PARIS, REST, DONE))
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    again = service.seen[1]
    assert (again.method, again.path) == ("GET", "/jobs/job-1/events")
    assert again.headers["last-event-id"] == "2"


def test_a_busy_service_is_asked_again_when_it_says_so(client_to, clock: Clock) -> None:
    service = Service(
        sse(QUEUED, PARIS, cut=True),
        problem(503, "no Redis", retry_after=7),
        problem(503, "no Redis"),
        Reply(502, body=b"<html>"),  # a proxy's word for an API that restarts
        sse(REST, DONE),
    )
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert clock.slept == [0.25, 7, 1, 2]


def test_a_service_that_is_away_for_a_while_is_waited_for(client_to, clock: Clock) -> None:
    port = free_port()
    second = Service(sse(REST, DONE))
    with ExitStack() as later, client_to(f"http://127.0.0.1:{port}") as client:
        stream = client.stream("x")
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
def test_a_submission_whose_answer_is_lost_is_sent_again_under_its_key(
    client_to, kind: str
) -> None:
    lost = Reply(lost=True)
    if kind == "stream":
        service = Service(lost, lost, sse(QUEUED, PARIS, REST, DONE))
    else:
        service = Service(lost, lost, answer(id="job-1"))
    with serving(service) as url, client_to(url) as client:
        if kind == "stream":
            assert [event.seq for event in client.stream("x")] == [1, 2, 3, 4]
        else:
            assert client.submit("x").id == "job-1"
    keys = {seen.headers["idempotency-key"] for seen in service.seen}
    assert len(service.seen) == 3
    assert len(keys) == 1
    assert {seen.body for seen in service.seen} == {b'{"prompt":"x"}'}


def test_every_submission_has_a_key_of_its_own(client_to) -> None:
    service = Service(answer(id="job-1"))
    with serving(service) as url, client_to(url) as client:
        client.submit("x")
        client.submit("x")
    first, second = (seen.headers["idempotency-key"] for seen in service.seen)
    assert first != second


def test_a_stream_lost_before_its_first_event_is_submitted_again(client_to) -> None:
    service = Service(sse(cut=True), sse(QUEUED, PARIS, REST, DONE))
    with serving(service) as url, client_to(url) as client:
        assert [event.seq for event in client.stream("x")] == [1, 2, 3, 4]
    assert [seen.path for seen in service.seen] == 2 * ["/generate/stream"]


def test_remarks_are_passed_on_and_disturb_no_numbers(client_to) -> None:
    service = Service(sse(QUEUED, MOVED, cut=True), sse(MOVED, PARIS, MOVED, REST, DONE))
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.seq for event in events] == [1, 0, 0, 2, 0, 3, 4]
    assert events[1].position == 7
    assert service.seen[1].headers["last-event-id"] == "1"


def test_an_error_without_a_number_ends_the_connection_not_the_job(client_to) -> None:
    service = Service(sse(QUEUED, PARIS, GIVEN_UP), sse(REST, DONE))
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.name for event in events] == ["queued", "token", "token", "done"]


def test_a_job_that_was_put_back_goes_on_behind_its_error(client_to) -> None:
    service = Service(sse(QUEUED, PARIS, FAILED, AGAIN, frame(5, "token", text="!"), cut=True))
    service.replies.append(sse(DONE_AFTER_ALL))
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1].name == "done"


def test_a_connection_that_breaks_behind_an_error_is_made_again_for_what_may_follow(
    client_to,
) -> None:
    service = Service(sse(QUEUED, PARIS, FAILED, cut=True), sse(AGAIN, DONE_AFTER_ALL))
    with serving(service) as url, client_to(url) as client:
        assert [event.seq for event in client.stream("x")] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("then", [ENDED, problem(410, "Expired."), problem(503, "gone")])
def test_an_error_is_the_end_if_nothing_is_known_to_follow_it(client_to, then: Reply) -> None:
    service = Service(sse(QUEUED, PARIS, FAILED, cut=True), then)
    with serving(service) as url, client_to(url) as client:
        events = list(client.stream("x"))
    assert [event.name for event in events] == ["queued", "token", "error"]


def test_a_job_is_followed_from_where_one_likes(client_to) -> None:
    service = Service(sse(REST, DONE), ENDED)
    with serving(service) as url, client_to(url) as client:
        assert [event.seq for event in client.events("job-1", after=2)] == [3, 4]
        assert list(client.events("job-1", after=4)) == []
    assert [seen.headers["last-event-id"] for seen in service.seen] == ["2", "4"]


def test_a_stream_that_stays_lost_names_its_job_and_last_event(client_to, clock: Clock) -> None:
    service = Service(sse(QUEUED, PARIS, cut=True), problem(503, "gone"))
    with serving(service) as url, client_to(url) as client:
        stream = client.stream("x")
        assert [next(stream).seq, next(stream).seq] == [1, 2]
        with pytest.raises(ServiceUnavailableError, match="job-1 was lost after event 2"):
            next(stream)
    assert patience.SECONDS - 4 < sum(clock.slept) <= patience.SECONDS
    assert max(clock.slept) == 4


def test_pings_are_signs_of_life(client_to, clock: Clock) -> None:
    """Each connection brings a ping and breaks; together they last longer than the patience."""
    ping = sse(b": ping\r\n\r\n", cut=True)
    service = Service(sse(QUEUED, cut=True), *40 * [ping], sse(PARIS, REST, DONE))
    with serving(service) as url, client_to(url) as client:
        assert [event.seq for event in client.stream("x")] == [1, 2, 3, 4]
    assert sum(clock.slept) > patience.SECONDS


@pytest.mark.parametrize(("status", "text"), [(404, "No such job."), (410, "It has expired.")])
def test_a_job_that_is_gone_is_not_sought_for_long(client_to, status: int, text: str) -> None:
    service = Service(sse(QUEUED, cut=True), problem(status, text))
    with serving(service) as url, client_to(url) as client:
        stream = client.stream("x")
        next(stream)
        with pytest.raises(RequestRefusedError, match=rf"^{text}$"):
            next(stream)
    assert len(service.seen) == 2


def test_a_refusal_names_the_fields(client_to) -> None:
    errors = [{"field": "top_p", "message": "too large"}, {"field": "x", "message": "unknown"}]
    service = Service(problem(422, "Bad request.", errors=errors))
    with (
        serving(service) as url,
        client_to(url) as client,
        pytest.raises(RequestRefusedError) as refused,
    ):
        client.submit("x")
    assert str(refused.value) == "Bad request. top_p: too large x: unknown"


def test_an_answer_that_is_no_problem_document_is_still_one_line(client_to) -> None:
    service = Service(Reply(500, body=b"<html>\nOops"))
    with (
        serving(service) as url,
        client_to(url) as client,
        pytest.raises(RequestRefusedError, match=r"^500 Internal Server Error$"),
    ):
        client.submit("x")


@pytest.mark.parametrize("kind", ["stream", "submit"])
def test_what_is_no_minivault_is_told(client_to, kind: str) -> None:
    page = Reply(headers={"Content-Type": "text/html"}, body=b"<html>Welcome")
    with (
        serving(Service(page)) as url,
        client_to(url) as client,
        pytest.raises(RequestRefusedError, match=f"What answers at {url} is not MiniVault"),
    ):
        list(client.stream("x")) if kind == "stream" else client.submit("x")


@pytest.mark.parametrize("status", [429, 503])
def test_a_refused_submission_says_when_to_come_back_and_is_not_repeated(
    client_to, status: int
) -> None:
    service = Service(problem(status, "Too much.", retry_after=12))
    with (
        serving(service) as url,
        client_to(url) as client,
        pytest.raises(ServiceUnavailableError, match=r"^Too much\. Try again in 12 s\.$"),
    ):
        next(client.stream("x"))
    assert len(service.seen) == 1


def test_a_job_is_read_and_cancelled_by_its_id(client_to) -> None:
    service = Service(answer(id="job-1", status="running"), answer(id="job-1", status="cancelled"))
    with serving(service) as url, client_to(url) as client:
        assert client.job("job-1").status == "running"
        assert client.cancel("job-1").status == "cancelled"
    assert [(seen.method, seen.path) for seen in service.seen] == [
        ("GET", "/jobs/job-1"),
        ("DELETE", "/jobs/job-1"),
    ]


def test_events_have_types(client_to) -> None:
    frames = [
        QUEUED,
        MOVED,
        frame(2, "loading", model="m"),
        frame(3, "started", prompt_tokens=1),
        frame(4, "token", text="é", logprobs=[1]),
        frame(5, "resumed", attempt=2),
        frame(6, "news", text="!", more={"a": 1}),
        frame(7, "error", code="worker_lost", message="It broke."),
        frame(8, "queued", id="job-1", model="m", position=0),
        frame(9, "cancelled", usage=USAGE, timings=TIMINGS),
    ]
    with serving(Service(sse(*frames))) as url, client_to(url) as client:
        stream = client.stream("x")
        events = list(stream)
    assert [type(event) for event in events] == [
        *(Queued, Queued, Loading, Started, Token, Resumed, Event, Failed, Queued, Cancelled)
    ]
    assert events[1].estimate == 21.4
    assert (events[2].model, events[3].prompt_tokens, events[5].attempt) == ("m", 1, 2)
    assert events[4].data == {"text": "é", "logprobs": [1]}
    assert (events[6].name, events[6].seq, events[6].data["more"]) == ("news", 6, {"a": 1})
    assert events[7].code == "worker_lost"
    assert events[9].usage.total_tokens == 3
    assert (stream.job_id, stream.text) == ("job-1", "é!")


def test_an_answer_is_the_stream_read_to_its_end(client_to) -> None:
    service = Service(sse(QUEUED, PARIS, cut=True), sse(REST, DONE))
    with serving(service) as url, client_to(url) as client:
        answer = client.generate("x", temperature=0, seed=None)
    assert (answer.id, answer.model, answer.response) == ("job-1", "m", "Paris\u2028é")
    assert (answer.finish_reason, answer.usage.total_tokens, answer.timings.total) == ("stop", 3, 1)
    assert json.loads(service.seen[0].body) == {"prompt": "x", "temperature": 0}


def test_a_conversation_is_sent_as_it_is_and_texts_come_alone(client_to) -> None:
    turns = [{"role": "user", "content": "x"}]
    service = Service(sse(QUEUED, MOVED, PARIS, frame(3, "token", text=""), DONE))
    with serving(service) as url, client_to(url) as client:
        assert list(client.stream(messages=turns).texts()) == ["Par"]
    assert json.loads(service.seen[0].body) == {"messages": turns}


def test_what_has_no_answer_raises_why(client_to) -> None:
    ended = frame(3, "cancelled", usage=USAGE, timings=TIMINGS)
    with serving(Service(sse(QUEUED, PARIS, FAILED))) as url, client_to(url) as client:
        with pytest.raises(JobFailedError, match=r"It broke\.") as failed:
            client.generate("x")
        assert (failed.value.job_id, failed.value.reason) == ("job-1", "worker_lost")
    with (
        serving(Service(sse(QUEUED, PARIS, ended))) as url,
        client_to(url) as client,
        pytest.raises(JobCancelledError),
    ):
        client.generate("x")


def test_models_are_listed(client_to) -> None:
    told = {"name": "m", "default": True, "served": True, "loaded": False, "pinned": True}
    listed = {"models": [told]}
    with serving(Service(Reply(body=json.dumps(listed).encode()))) as url, client_to(url) as client:
        (model,) = client.models()
    assert (model.name, model.default, model.loaded) == ("m", True, False)
    assert model.data["pinned"]


@pytest.mark.parametrize(
    "body", [b'{"models": 5}', b"[]", b'{"id": 5}', b"5", b"null", b"{}", b'{"models": [5]}']
)
def test_json_of_something_else_is_told(client_to, body: bytes) -> None:
    with serving(Service(Reply(body=body))) as url, client_to(url) as client:
        for ask in (client.models, lambda: client.job("job-1"), lambda: client.submit("x")):
            with pytest.raises(NotMiniVaultError):
                ask()


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"id": 5}', b"{}", b'"x"', b"\xff"])
def test_events_of_something_else_are_told(client_to, data: bytes) -> None:
    reply = sse(b"id: 1\nevent: queued\ndata: " + data + b"\n\n")
    with serving(Service(reply)) as url, client_to(url) as client, pytest.raises(NotMiniVaultError):
        list(client.stream("x"))


def test_a_refusal_has_the_services_own_code(client_to) -> None:
    service = Service(problem(422, "Bad request."))
    with (
        serving(service) as url,
        client_to(url) as client,
        pytest.raises(RequestRefusedError) as refused,
    ):
        client.generate("x")
    assert (refused.value.status, refused.value.reason) == (422, "invalid_request")


def test_a_key_is_sent_with_every_request(client_to, monkeypatch) -> None:
    service = Service(answer())
    with serving(service) as url:
        with client_to(url, api_key="mine") as client:
            client.submit("x")
        monkeypatch.setenv("MINIVAULT_API_KEY", "from-outside")
        with client_to(url) as client:
            client.job("job-1")
        with client_to(url, api_key="") as client:
            client.cancel("job-1")
    keys = [seen.headers.get("authorization") for seen in service.seen]
    assert keys == ["Bearer mine", "Bearer from-outside", None]
    assert load_settings().port == 8000  # the key is no setting, and no mistake either


@pytest.mark.parametrize("key", ["é", "a b", "a\nb"])
def test_what_no_header_could_hold_is_no_key(client_to, key: str) -> None:
    with pytest.raises(RequestRefusedError, match="API key"):
        client_to("http://localhost", api_key=key)


@pytest.mark.parametrize("url", ["http://a:b", "localhost:8000", "ftp://localhost"])
def test_what_is_no_url_is_told(client_to, url: str) -> None:
    with pytest.raises(RequestRefusedError, match="is no URL"), client_to(url) as client:
        client.models()


def test_a_redirect_is_not_followed_with_the_key(client_to) -> None:
    service = Service(Reply(307, {"Location": "http://127.0.0.1:9/"}))
    with (
        serving(service) as url,
        client_to(url, api_key="mine") as client,
        pytest.raises(RequestRefusedError, match="307"),
    ):
        client.submit("x")
    assert len(service.seen) == 1


def test_endless_patience_waits_also_for_who_was_never_there(client_to, clock: Clock) -> None:
    port = free_port()
    pauses = []
    with ExitStack() as later:

        def come_back() -> None:
            if len(clock.slept) == 50:
                later.enter_context(serving(Service(answer()), port))

        clock.on_sleep = come_back
        url = f"http://127.0.0.1:{port}"
        with client_to(url, patience=ENDLESS, on_pause=pauses.append) as client:
            assert client.submit("x").id == "job-1"
    assert [pause.seconds for pause in pauses] == clock.slept
    assert sum(clock.slept) > patience.SECONDS
    assert "No service answers" in pauses[0].reason


def test_a_pause_is_told_with_its_reason(client_to, clock: Clock) -> None:
    pauses = []
    service = Service(sse(QUEUED, PARIS, GIVEN_UP), sse(REST, DONE))
    with serving(service) as url, client_to(url, on_pause=pauses.append) as client:
        assert client.generate("x").response == "Paris\u2028é"
    assert [(pause.seconds, pause.reason) for pause in pauses] == [(0.25, "gone")]
    assert clock.slept == [0.25]


def test_a_stream_that_is_left_hangs_up(client_to) -> None:
    service = Service(sse(QUEUED, PARIS, REST, DONE))
    with serving(service) as url, client_to(url) as client:
        with client.stream("x") as stream:
            next(stream)
        assert list(stream) == []
        assert stream.job_id == "job-1"
    assert len(service.seen) == 1


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
    service = Service(answer(202))
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
    service = Service(answer(202, status="running"), answer(id="job-2", status="done"))
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
