"""Streams from a running service, over real sockets, with as little client as possible.

The client shares the machine with what it measures, so it reads SSE lines from a socket and
parses the last event alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.parse import urlsplit

from bench.measure import Stream
from shared.settings import PREFIX, Settings

_READY_SECONDS: Final = 120


@contextmanager
def running_service(settings: Settings, port: int, **variables: str) -> Iterator[str]:
    """A whole stack of its own, in a temporary data folder with the settings' models.

    `variables` are further settings, in capitals.

    Yields:
        Its URL.
    """
    with tempfile.TemporaryDirectory(prefix="mv-bench-") as folder:
        Path(folder, "models").symlink_to(settings.models_dir)
        environment = {
            **os.environ,
            PREFIX + "DATA_DIR": folder,
            PREFIX + "PORT": str(port),
            PREFIX + "RATE_LIMIT": "off",
            PREFIX + "PREFIX_CACHE_MB": "0",  # rounds repeat their prompts
            **{PREFIX + name: value for name, value in variables.items()},
        }
        command = [sys.executable, "-m", "cli", "up"]
        stack = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, stack)
            yield url
        finally:
            stack.terminate()
            stack.wait(timeout=30)


def _wait_until_ready(url: str, stack: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if stack.poll() is not None:
            sys.exit("The stack did not start; see its message above.")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"{url} was not ready within {_READY_SECONDS} s.")


def stream_all(
    url: str, prompts: Sequence[str], max_tokens: int, *, raw: bool = False
) -> list[Stream]:
    """Stream an answer to each prompt, all at once."""

    async def together() -> list[Stream]:
        bodies = [
            {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "raw": raw}
            for prompt in prompts
        ]
        return await asyncio.gather(*(stream(url, json.dumps(body).encode()) for body in bodies))

    return asyncio.run(together())


async def stream(url: str, body: bytes) -> Stream:
    """One answer to `POST /generate/stream`, read to its end."""
    address = urlsplit(url)
    head = (
        f"POST /generate/stream HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    found = Stream(started=time.perf_counter())
    writer.write(head.encode() + body)
    event = b""
    while line := await reader.readline():
        if line.startswith(b"event:"):
            event = line[6:].strip()
        elif line.startswith(b"data:") and event == b"token":
            found.arrivals.append(time.perf_counter())
        elif line.startswith(b"data:") and event == b"queued":
            found.job_id = json.loads(line[5:])["id"]
        elif line.startswith(b"data:") and event in {b"done", b"error"}:
            usage = json.loads(line[5:])["usage"]
            found.tokens = usage["completion_tokens"]
            found.prompt_tokens = usage["prompt_tokens"]
            found.cached_tokens = usage["cached_tokens"]
            break
    writer.close()
    if not found.tokens:
        sys.exit(f"{url} did not finish a stream.")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
