"""What comes to the API's port before it is a request: slowly, without end, in heaps, or broken."""

import itertools
import json
import re
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis

from api import reception
from api.reception import MAX_HEAD, RESERVE
from shared.settings import Settings
from tests.support.api import api_process, read_sse, running_api
from tests.support.poll import until
from tests.support.raw import GET, HOST, JSON, ask, connect, line
from tests.support.scripted_worker import scripted_worker, words

SECONDS = 0.5
POST = b"POST /jobs HTTP/1.1\r\n" + HOST + JSON
BODY = b'{"prompt": "x"}'


@pytest.fixture(scope="module", autouse=True)
def impatience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reception, "_MARGIN_SECONDS", 0.2)
        patch.setattr(reception, "_SURPLUS_SECONDS", SECONDS)
        patch.setattr(reception, "RESERVE", 5)
        yield


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with running_api(session_settings, request_seconds=SECONDS) as url:
        yield url


def drops() -> Iterator[bytes]:
    return itertools.repeat(b"x", 200)


def test_who_says_nothing_is_hung_up_on(url: str) -> None:
    with line(url) as silent:
        assert silent.is_closed()
        assert SECONDS * 0.9 < silent.age < SECONDS * 4


def test_a_head_that_trickles_in_gets_408(url: str) -> None:
    with line(url) as slow:
        slow.send(b"GET /healthz HTTP/1.1\r\nX: ")
        slow.trickle(drops())
        assert slow.answer().problem == (408, "request_timeout")
        assert slow.is_closed()
        assert SECONDS * 0.9 < slow.age < SECONDS * 4


@pytest.mark.parametrize("parts", [drops(), itertools.repeat(b"1\r\nx\r\n", 200)])
def test_a_body_that_trickles_in_gets_408(url: str, parts: Iterator[bytes]) -> None:
    first = next(parts)
    head = b"Content-Length: 999\r\n" if len(first) == 1 else b"Transfer-Encoding: chunked\r\n"
    with line(url) as slow:
        slow.send(POST + head + b"\r\n", first)
        slow.trickle(parts)
        assert slow.answer().problem == (408, "request_timeout")
        assert slow.is_closed()
        assert SECONDS * 0.9 < slow.age < SECONDS * 4


def test_what_is_refused_at_once_can_not_hold_its_line_with_a_body(url: str) -> None:
    with line(url) as slow:
        slow.send(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 999\r\n\r\n")
        assert slow.answer().problem == (404, "not_found")
        slow.trickle(drops())
        assert slow.is_closed()
        assert slow.age < SECONDS * 4


def test_nor_does_a_second_request_have_more_time(url: str) -> None:
    with line(url) as slow:
        slow.send(GET)
        assert slow.answer().status == 200
        slow.trickle(itertools.chain([b"\r\n"] * 4, (bytes([byte]) for byte in GET[:-2]), drops()))
        assert slow.answer().problem == (408, "request_timeout")
        assert slow.age < SECONDS * 6


def test_a_stream_goes_on_for_longer_than_a_request_may_take_to_come_in(
    url: str, settings: Settings, redis: Redis
) -> None:
    """Also with half of the next request behind it, which can't be read yet."""
    script = words(*"abcdefgh", pause=SECONDS / 3)
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    with scripted_worker(redis, settings.default_model, script), line(url) as patient:
        patient.send(POST.replace(b"/jobs", b"/generate/stream") + length + BODY, GET[:20])
        answer = patient.answer()
        assert answer.body.count(b"event: token") == 8
        assert answer.body.endswith(b"}\r\n\r\n")
        assert patient.age > SECONDS * 2
        patient.send(GET[20:])
        assert patient.answer().status == 200


# what comes piece by piece for ever; status and code
ENDLESS = {
    "path": (b"GET /", b"x" * 1000, 431),
    "header": (b"GET / HTTP/1.1\r\nX: ", b"x" * 1000, 431),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 200, 431),
    "name": (b"GET / HTTP/1.1\r\n", b"x" * 1000, 431),
    "extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 1000, 431),
    "trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 1000, 431),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_has_no_end_is_cut_before_it_fills_the_memory(url: str, case: str) -> None:
    start, piece, status = ENDLESS[case]
    with line(url) as endless:
        endless.send(start)
        endless.trickle(itertools.repeat(piece, 100), pause=0.002)
        assert endless.answer().problem == (status, "header_too_large")
        assert endless.is_closed()


def test_a_head_may_be_large_but_not_in_one_piece_too_large(url: str) -> None:
    def head(size: int) -> bytes:
        return b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"x" * size + b"\r\n\r\n"

    assert ask(url, head(MAX_HEAD - 100)).status == 200
    assert ask(url, head(MAX_HEAD)).problem == (431, "header_too_large")


def test_a_body_in_the_smallest_chunks_is_a_body(url: str, redis: Redis) -> None:
    body = json.dumps({"prompt": "x" * 20_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    answer = ask(url, POST + b"Transfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n")
    assert answer.status == 202


def test_trailers_are_no_headers(url: str) -> None:
    """A proxy would have dropped or checked them as headers."""
    chunked = b"Transfer-Encoding: chunked\r\nTrailer: Content-Type\r\n\r\nf\r\n" + BODY
    head = b"POST /jobs HTTP/1.1\r\n" + HOST
    answer = ask(url, head + chunked + b"\r\n0\r\nContent-Type: application/json\r\n\r\n")
    assert answer.problem == (415, "unsupported_media_type")


# Two readers that disagree on where a request ends make two requests of one, or one of two.
SMUGGLED = {
    "length-and-chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "chunks-and-length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two-lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n",
    "two-lengths-in-one": b"Content-Length: 4, 4\r\n",
    "plus": b"Content-Length: +4\r\n",
    "underscore": b"Content-Length: 1_0\r\n",
    "negative": b"Content-Length: -4\r\n",
    "huge": b"Content-Length: " + b"9" * 30 + b"\r\n",
    "not-last": b"Transfer-Encoding: chunked, identity\r\n",
    "misspelt": b"Transfer-Encoding: xchunked\r\n",
    "space-before-colon": b"Transfer-Encoding : chunked\r\n",
    "folded": b"X: y\r\n Transfer-Encoding: chunked\r\n",
    "bare-line-feed": b"X: y\nTransfer-Encoding: chunked\r\n",
    "bare-return": b"X: y\rTransfer-Encoding: chunked\r\n",
    "nul": b"X: a\0b\r\n",
    "no-name": b": y\r\n",
}


@pytest.mark.parametrize("case", SMUGGLED)
def test_what_could_be_read_in_two_ways_is_refused(url: str, case: str) -> None:
    with line(url) as smuggler:
        smuggler.send(POST + SMUGGLED[case] + b"\r\n", b"0\r\n\r\n", GET)
        assert smuggler.answer().problem == (400, "invalid_http")
        assert smuggler.socket.recv(1) == b""  # what came behind it is no request


# request, status, code
ODD = {
    "no-http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_http"),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_http"),
    "http-9": (b"GET / HTTP/9.9\r\n\r\n", 400, "invalid_http"),
    "no-host": (b"GET /models HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    "two-hosts": (b"GET /models HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400, "invalid_http"),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_http"),
    "star": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404, "not_found"),
    "no-utf-8": (b"GET /jobs/%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n", 404, "job_not_found"),
    "raw-bytes": (b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_http"),
    "dots": (b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", 404, "not_found"),
    "hidden-dots": (b"GET /jobs/..%2f..%2fx HTTP/1.1\r\n" + HOST + b"\r\n", 404, "not_found"),
    "trace": (b"TRACE /jobs HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "options": (
        b"OPTIONS /jobs HTTP/1.1\r\n"
        + HOST
        + b"Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    "websocket": (
        b"GET /generate/stream HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    "short-body": (POST + b"Content-Length: 5\r\n\r\n" + BODY, 400, "invalid_json"),
    "prompt-twice-wrong": (
        POST + b"Content-Length: 27\r\n\r\n" + b'{"prompt": 1, "prompt": ""}',
        422,
        "invalid_request",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_requests_get_an_answer_of_ours(url: str, case: str) -> None:
    request, *expected = ODD[case]
    answer = ask(url, request)
    assert list(answer.problem) == expected
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_a_wish_for_another_protocol_is_ignored(url: str, redis: Redis) -> None:
    """Body and all: a smuggler would have it taken for the other protocol's first words."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    request = POST + upgrade + b"Content-Length: 15\r\n\r\n" + BODY
    with line(url) as java:
        java.send(request[:-5])
        java.send(request[-5:] + request)
        assert java.answer().status == 202
        assert java.answer().status == 202


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    with line(url) as piped:
        missing = b"GET /jobs/x HTTP/1.1\r\n" + HOST + b"\r\n"
        piped.send((GET + missing) * 20)
        received = b""

        def statuses() -> list[bytes]:
            nonlocal received
            received += piped.socket.recv(65536)
            return re.findall(rb"HTTP/1.1 (\d+)", received)

        until(lambda: len(statuses()) == 40, what="all answers")
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404"] * 20


def test_rubbish_behind_a_request_spoils_no_answer(
    url: str, settings: Settings, redis: Redis
) -> None:
    """Nothing is written into the stream. It ends whole, and is the last."""
    with scripted_worker(redis, settings.default_model, words("a", "b", pause=0.3)):
        request = POST.replace(b"/jobs", b"/generate/stream") + b"Content-Length: 15\r\n\r\n" + BODY
        with line(url) as torn:
            torn.send(request)
            until(lambda: torn.socket.recv(65536).count(b"event: token"), what="the first token")
            torn.send(b"rubbish\r\n\r\n")
            rest = b"".join(iter(lambda: torn.socket.recv(65536), b""))
    assert b"HTTP/1.1" not in rest
    assert b"event: done" in rest
    assert rest.endswith(b"\r\n0\r\n\r\n")


def test_one_connection_too_many_is_told_so(settings: Settings) -> None:
    with running_api(settings, max_connections=3) as url, ExitStack() as stack:
        kept = [stack.enter_context(line(url)) for _ in range(3)]
        for each in kept:
            each.send(GET)
            assert each.answer().status == 200
        answer = ask(url, b"GET /models HTTP/1.1\r\n" + HOST + b"\r\n")
        assert answer.problem == (503, "too_many_connections")
        assert answer.headers["retry-after"]
        assert answer.headers["connection"] == "close"
        assert ask(url, GET).status == 200  # it is not ill, only full
        with line(url) as silent:
            assert silent.is_closed()
            assert silent.age < SECONDS * 4
        surplus = [stack.enter_context(line(url)) for _ in range(6)]
        assert surplus[-1].is_closed()  # without a word, and at once
        assert surplus[-1].age < SECONDS / 2
        kept[0].send(b"GET /models HTTP/1.1\r\n" + HOST + b"\r\n")
        assert kept[0].answer().status == 200  # who is in is served
        kept[0].socket.close()
        until(
            lambda: ask(url, b"GET /models HTTP/1.1\r\n" + HOST + b"\r\n").status == 200,
            what="room again",
        )


def is_served(url: str) -> bool:
    """False where the connection is cut: the process may not have noticed yet who has left."""
    try:
        return ask(url, GET).status == 200
    except ConnectionError:
        return False


def test_thousands_of_connections_do_not_use_up_the_files(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    """Of the few it may open, a process keeps some for its work, and for saying no."""
    log = tmp_path / "api.log"
    with (
        api_process(settings, log, MAX_CONNECTIONS="900") as (process, url),
        scripted_worker(redis, settings.default_model, words("a", pause=0.5)),
        httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as response,
    ):
        events = read_sse(response)
        assert next(events).event == "queued"
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (130, 130))
        crowd = [connect(url) for _ in range(400)]
        assert [event.event for event in events][-1] == "done"  # who was in is served
        busy = psutil.Process(process.pid).cpu_times()
        for each in crowd:
            each.socket.close()
        until(lambda: is_served(url), what="an answer")
        assert busy.user + busy.system < 10  # it did not spin
    assert "Traceback" not in log.read_text()


def test_with_few_files_fewer_connections_are_taken(settings: Settings, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = RESERVE + 200 + 5
    log = tmp_path / "api.log"
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with api_process(settings, log, LOG_FORMAT="json") as (process, _):
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 2300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
