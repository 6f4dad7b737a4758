"""`python -m bench.startup`: from a process's start to the first token, and to compiled kernels.

`worker` is a worker process for which a job waits already; `up` is the whole stack, asked over
HTTP as soon as something answers. Cold: with a model folder in which nothing was ever compiled.
Warm: the same folder again. Python's and the kernel's file caches are warm in both.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench import service
from bench.prepared import prepare
from bench.queue_depth import running_valkey
from bench.report import machine, table
from shared import job
from shared.configuration import load_settings
from shared.events import Token
from shared.job import GenerationRequest, SamplingParams
from shared.log import EventLog
from shared.queue import JobQueue, Limits, Submission
from shared.redis import connect, connect_async
from shared.settings import PREFIX, Settings

_POLL: Final = 0.01
_PROMPT: Final = "What is the capital of France?"
_LIMITS: Final = Limits(max_queued=10, max_in_flight=10)


class Start(NamedTuple):
    first_token: float
    """Seconds since the process was started."""
    kernels_ready: float | None
    """None: it never said so."""
    source: str
    """Of the kernels."""


def main() -> None:
    arguments = _arguments()
    settings = load_settings()
    prepare(settings)
    print(
        f"Seconds from process start; cold once, warm: median of {arguments.runs} (the most); "
        f"{machine()}"
    )
    rows = []
    for what, start in (("worker", _start_worker), ("up", _start_up)):
        with tempfile.TemporaryDirectory(prefix="mv-bench-") as folder:
            models = Path(folder)
            _link_models(settings, models)
            rows.append(_row(f"{what}, cold", [start(models, arguments.patience)]))
            warm = [start(models, arguments.patience) for _ in range(arguments.runs)]
            rows.append(_row(f"{what}, warm", warm))
    table(["", "first token", "kernels ready", "kernels from"], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="warm starts")
    parser.add_argument("--patience", type=float, default=60, help="seconds for compiled kernels")
    return parser.parse_args()


def _row(title: str, starts: Sequence[Start]) -> list[str]:
    ready = [start.kernels_ready for start in starts if start.kernels_ready is not None]
    sources = ", ".join(sorted({start.source for start in starts}))
    return [title, _spread([start.first_token for start in starts]), _spread(ready), sources]


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never"
    most = f" ({max(seconds):.2f})" if len(seconds) > 1 else ""
    return f"{median(seconds):.2f}{most}"


def _link_models(settings: Settings, models: Path) -> None:
    """What was downloaded and converted, and nothing that was compiled."""
    for folder in settings.models_dir.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            (models / folder.name).symlink_to(folder.resolve())


def _start_worker(models: Path, patience: float) -> Start:
    with running_valkey() as settings, connect(settings, "bench") as redis:
        settings.models_dir.rmdir()
        settings.models_dir.symlink_to(models)
        job_id, log = asyncio.run(_submit(settings)), EventLog(redis)
        path = settings.data_dir / "worker.log"
        began = time.monotonic()
        with _running(["worker"], settings.data_dir, path) as process:
            while not any(isinstance(event, Token) for event in log.read_job(job_id)[1]):
                _check(process, path)
                time.sleep(_POLL)
            first_token = time.monotonic() - began
            return Start(first_token, *_kernels(path, began, patience))


async def _submit(settings: Settings) -> str:
    with connect(settings, "bench") as redis:
        async with connect_async(settings, "bench") as asynchronous:
            queue = JobQueue(asynchronous, result_ttl=3600, rq_redis=redis)
            request = GenerationRequest(
                id=job.new_job_id(),
                model=settings.default_model,
                prompt=_PROMPT,
                params=SamplingParams(max_tokens=8, temperature=0, seed=1),
                client="bench",
                created_at=job.now(),
            )
            return await queue.submit(request, Submission(_LIMITS, ttl=3600, attended_for=None))


def _start_up(models: Path, patience: float) -> Start:
    with tempfile.TemporaryDirectory(prefix="mv-bench-") as folder:
        data_dir, port = Path(folder), service.free_port()
        (data_dir / "models").symlink_to(models)
        path = data_dir / "up.log"
        began = time.monotonic()
        with _running(["up"], data_dir, path, PORT=str(port)) as process:
            while not _streams(port):
                _check(process, path)
                time.sleep(_POLL)
            first_token = time.monotonic() - began
            worker_log = data_dir / "logs" / "worker-1.log"
            return Start(first_token, *_kernels(worker_log, began, patience))


def _streams(port: int) -> bool:
    """Ask for a stream; whether there was one, once its first token is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"prompt": _PROMPT, "max_tokens": 8, "temperature": 0})
    try:
        connection.request("POST", "/generate/stream", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            return False
        return any(line.strip() == b"event: token" for line in answer)
    except OSError:
        return False
    finally:
        connection.close()


def _kernels(log: Path, began: float, patience: float) -> tuple[float | None, str]:
    """When the worker says that its kernels are ready, and where from."""
    while time.monotonic() - began < patience:
        for line in _lines(log):
            if line.get("event") == "kernels ready":
                behind = time.time() - _time_of(line)
                return time.monotonic() - behind - began, str(line["source"])
            if line.get("event") == "kernels unavailable":
                return None, str(line["reason"])
        time.sleep(_POLL)
    return None, "none"


def _time_of(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # not written to its end yet, or not ours
            continue
        if isinstance(found, dict):
            yield found


@contextmanager
def _running(
    command: Sequence[str], data_dir: Path, log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        PREFIX + "DATA_DIR": str(data_dir),
        PREFIX + "RATE_LIMIT": "off",
        PREFIX + "LOG_FORMAT": "json",
        **{PREFIX + name: value for name, value in variables.items()},
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *command], env=environment, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def _check(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        sys.exit(log.read_text(encoding="utf-8", errors="replace"))


if __name__ == "__main__":
    main()
