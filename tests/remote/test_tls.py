"""Redis over TLS. What speaks TLS is a relay in front of Valkey, whose wheel can't.

Run by `make test-remote`: certificates are made by openssl.
"""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import RedisUnavailableError
from shared.redis import connect, require
from shared.settings import Settings
from tests.support.api import api_process, free_port, stream
from tests.support.poll import until
from tests.support.workers import crew


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert shutil.which("openssl"), "This test needs openssl."
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ours", "theirs"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([*command, *files, *subject], cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def relay(settings: Settings, certificates: Path) -> Iterator[int]:
    """TLS on a port of localhost, in front of the server's socket."""
    port = free_port()
    files = [certificates / "ours.pem", certificates / "ours.key"]
    command = [sys.executable, "-m", "tests.remote.relay", str(port), settings.socket_path, *files]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        until(lambda: _listens(port), what="the relay")
        yield port
    finally:
        process.kill()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def over(settings: Settings, host: str, port: int, authority: Path) -> Settings:
    url = f"rediss://{host}:{port}/0?ssl_ca_certs={authority}"
    return settings.model_copy(update={"redis_url": url})


def test_everything_runs_over_tls(settings: Settings, certificates: Path, tmp_path: Path) -> None:
    with relay(settings, certificates) as port:
        secure = over(settings, "localhost", port, certificates / "ours.pem")
        with crew(secure) as workers, api_process(secure, tmp_path / "api.log") as (_, url):
            workers.start_one()
            events = stream(url, {"prompt": "hello", "temperature": 0})
        assert "".join(event.data.get("text", "") for event in events) == "hello"


@pytest.mark.parametrize(("host", "authority"), [("localhost", "theirs"), ("127.0.0.1", "ours")])
def test_a_server_that_can_not_be_who_it_says_is_refused(
    settings: Settings, certificates: Path, host: str, authority: str
) -> None:
    with relay(settings, certificates) as port:
        doubtful = over(settings, host, port, certificates / f"{authority}.pem")
        with connect(doubtful, "test") as client, pytest.raises(RedisUnavailableError):
            require(client, doubtful)
