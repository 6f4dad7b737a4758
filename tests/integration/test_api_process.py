"""The API as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis

from api.main import listen, run
from shared.errors import RedisUnavailableError, StackError
from shared.settings import Settings
from tests.support.api import free_port, read_sse
from tests.support.poll import until

RUN = "from api.main import run; from shared.settings import load_settings; run(load_settings())"


@contextmanager
def api_process(
    settings: Settings, log: Path, **changes: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    env = os.environ | {
        "MINIVAULT_REDIS_URL": settings.effective_redis_url,
        "MINIVAULT_DATA_DIR": str(settings.data_dir),
        "MINIVAULT_PORT": str(port),
        "MINIVAULT_RATE_LIMIT": "off",
        **{f"MINIVAULT_{name}": value for name, value in changes.items()},
    }
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", RUN], env=env, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url), what=f"the API's answer ({log})")
        yield process, url
    finally:
        process.kill()
        process.wait(timeout=10)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


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
            listen(settings.model_copy(update={"port": port}))
    assert str(caught.value) == (
        f"Port {port} on 127.0.0.1 is taken. Free it, or set MINIVAULT_PORT."
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300])
def test_an_address_of_another_machine_is_one_clear_line(settings: Settings, host: str) -> None:
    with pytest.raises(StackError, match="MINIVAULT_HOST"):
        listen(settings.model_copy(update={"host": host}))


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
