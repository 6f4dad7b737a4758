"""The API as a process of its own."""

import json
import signal
import socket
import subprocess
import sys
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.main import listen, run
from api.metrics import ApiMetrics
from api.state import open_state
from shared import names
from shared.errors import RedisUnavailableError, StackError
from shared.settings import Settings
from tests.support.api import answers, api_process, read_sse
from tests.support.poll import until
from tests.support.scripted_worker import ScriptedWorker, words
from tests.support.slow_readers import JOB, ask, followers, write_log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_in_time_even_with_an_open_stream(
    settings: Settings, redis: Redis, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "api.log"
    with (
        api_process(settings, log, SHUTDOWN_GRACE="1") as (process, url),
        httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as response,
    ):
        events = read_sse(response)
        assert next(events).event == "queued"
        process.send_signal(number)
        assert list(events) == []  # completed, not broken off
        assert process.wait(timeout=5) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_stopping_process_takes_nothing_new(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    """On a connection whose request was on its way; new connections find nobody."""
    log = tmp_path / "api.log"
    body = b'{"prompt": "x"}'
    head = (
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with api_process(settings, log, SHUTDOWN_GRACE="4") as (process, url):
        address = urlsplit(url)
        with (
            httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as response,
            socket.create_connection((address.hostname, address.port), timeout=10) as raw,
        ):
            events = read_sse(response)
            assert next(events).event == "queued"
            raw.sendall(head + body[:5])
            process.send_signal(signal.SIGTERM)
            until(lambda: not answers(url), what="the end of listening")
            raw.sendall(body[5:])
            answer = HTTPResponse(raw)
            answer.begin()
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert json.loads(answer.read())["code"] == "stopping"
            assert list(events) == []  # the old stream had its chance, and was completed
        assert process.wait(timeout=6) == 0, log.read_text()
    assert redis.zcard(names.JOBS) == 1


def test_a_stuck_reader_does_not_hold_up_a_stop(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    log = tmp_path / "api.log"
    write_log(redis, tokens=200, size=100_000)
    with (
        api_process(settings, log, SHUTDOWN_GRACE="1") as (process, url),
        ask(url, f"/jobs/{JOB}/events"),
    ):
        until(lambda: followers(redis) == 1, what="the stream")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


async def test_a_stopping_process_is_not_ready(settings: Settings, redis: Redis) -> None:
    ScriptedWorker(redis, settings.default_model, words()).announce()
    async with open_state(settings, ApiMetrics()) as state:
        app = create_app(settings)

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope | {"state": {"app": state}}, receive, send)

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/readyz")).status_code == 200
            job_id = (await client.post("/jobs", json={"prompt": "x"})).json()["id"]
            state.relay.stop(grace=60)
            for response in (
                await client.get("/readyz"),
                await client.post("/jobs", json={"prompt": "x"}),
                await client.get(f"/jobs/{job_id}/events"),
            ):
                assert (response.status_code, response.json()["code"]) == (503, "stopping")
                assert response.headers["retry-after"]
            # What takes no time is still answered.
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get(f"/jobs/{job_id}")).status_code == 200


def test_a_request_leaves_one_line_with_its_id(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    with api_process(settings, log, LOG_FORMAT="json") as (_, url):
        headers = {"X-Request-ID": "find-me"}
        httpx.post(f"{url}/generate", json={"prompt": "", "s3cret": 1}, headers=headers)
        (line,) = until(
            lambda: [line for line in log.read_text().splitlines() if "find-me" in line],
            what="the log line",
        )
    assert '"path": "/generate"' in line
    assert '"status": 422' in line
    assert "s3cret" not in log.read_text()


def test_a_taken_port_is_one_clear_line(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError) as caught:
            listen(settings.host, port)
    assert str(caught.value) == (
        f"Port {port} on 127.0.0.1 is taken. Free it, or set MINIVAULT_PORT."
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300])
def test_an_address_of_another_machine_is_one_clear_line(settings: Settings, host: str) -> None:
    with pytest.raises(StackError, match="MINIVAULT_HOST"):
        listen(host, settings.port)


def test_redis_is_required_at_start(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": "redis://:pw@127.0.0.1:1/0"})
    with pytest.raises(RedisUnavailableError) as caught:
        run(nowhere)
    assert "MINIVAULT_REDIS_URL" in str(caught.value)
    assert "pw" not in str(caught.value)


def test_importing_the_api_loads_no_model_library() -> None:
    script = (
        "import sys, pkgutil, importlib, api\n"
        "for found in pkgutil.walk_packages(api.__path__, 'api.'):\n"
        "    importlib.import_module(found.name)\n"
        "assert 'api.main' in sys.modules\n"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
