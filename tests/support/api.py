"""The real API under a real uvicorn, in a thread of the test process or in one of its own."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from api.main import Server, listening
from shared.settings import Settings
from tests.support.poll import until

_RUN = (
    "from api.main import run; from shared.configuration import load_settings; run(load_settings())"
)


@contextmanager
def running_api(settings: Settings, **changes: Any) -> Iterator[str]:
    """Serve on a free port; yields the base URL."""
    settings = settings.model_copy(
        update={"port": free_port(), "shutdown_grace": 0.5, "trusted_proxies": ()} | changes
    )
    server = Server(settings)
    with listening(settings) as listeners:
        thread = threading.Thread(target=server.run, kwargs={"sockets": listeners})
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), what="uvicorn's start")
            yield f"http://127.0.0.1:{settings.port}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive(), "the API did not stop"


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
        process = subprocess.Popen([sys.executable, "-c", _RUN], env=env, stderr=output)
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Sse:
    """One server-sent event as a client parses it."""

    event: str = ""
    data: Any = None
    id: int | None = None


def read_sse(response: httpx.Response) -> Iterator[Sse]:
    """Parse a stream as it comes in. Comments are skipped."""
    current = Sse()
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        match name:
            case "event":
                current.event = value
            case "data":
                current.data = json.loads(value)
            case "id":
                current.id = int(value)
            case "" if current.event:
                yield current
                current = Sse()


def stream(url: str, body: dict[str, Any], **headers: str) -> list[Sse]:
    with httpx.stream("POST", f"{url}/generate/stream", json=body, headers=headers) as response:
        assert response.status_code == 200, response.read()
        return list(read_sse(response))


def text_of(events: list[Sse]) -> str:
    """The rule for clients: every `text` field, in order."""
    return "".join(event.data.get("text", "") for event in events)
