"""A service of its own to measure, and streams from it."""

from __future__ import annotations

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

from bench.drivers import minivault, wire
from bench.drivers.minivault import MiniVault
from bench.measure import Stream
from bench.workload import at_once
from shared.settings import PREFIX, Settings

_READY_SECONDS: Final = 120


@contextmanager
def running_service(settings: Settings, port: int, **variables: str) -> Iterator[str]:
    """`running_stack` without a prefix cache, as rounds repeat their prompts; yields its URL."""
    with running_stack(settings, port, **{"PREFIX_CACHE_MB": "0", **variables}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_stack(
    settings: Settings, port: int, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A whole stack of its own, in a temporary data folder with the settings' models.

    `variables` are further settings, in capitals.

    Yields:
        Its supervisor's process, once it is ready.
    """
    with tempfile.TemporaryDirectory(prefix="mv-bench-") as folder:
        Path(folder, "models").symlink_to(settings.models_dir.resolve())
        if settings.catalog_file.exists():
            Path(folder, settings.catalog_file.name).symlink_to(settings.catalog_file.resolve())
        environment = {
            **os.environ,
            PREFIX + "DATA_DIR": folder,
            PREFIX + "PORT": str(port),
            PREFIX + "RATE_LIMIT": "off",
            **{PREFIX + name: value for name, value in variables.items()},
        }
        command = [sys.executable, "-m", "cli", "up"]
        stack = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_until_answers(f"http://127.0.0.1:{port}/readyz", stack)
            yield stack
        finally:
            stack.terminate()
            stack.wait(timeout=30)


def wait_until_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for success at `url`; without it in time, or with the process's end, exit."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.args!r} did not start; see its message above.")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"{url} did not answer within {_READY_SECONDS} s.")


def stream_all(
    url: str, prompts: Sequence[str], max_tokens: int, *, raw: bool = False
) -> list[Stream]:
    """Stream an answer to each prompt, all at once."""
    streams = MiniVault(url).run(at_once(prompts, max_tokens, raw=raw))
    for found in streams:
        _require(found, url)
    return streams


async def stream(url: str, body: bytes) -> Stream:
    """One answer to `POST /generate/stream`, read to its end."""
    started = time.perf_counter()
    received = await wire.post(f"{url}/generate/stream", body)
    return _require(minivault.read(started, received), url)


def _require(found: Stream, url: str) -> Stream:
    if found.failed:
        sys.exit(f"{url} did not finish a stream.")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
