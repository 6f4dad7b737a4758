"""`minivault dashboard` beside a worker that is busy for as long as a test needs."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.error import URLError

from shared.queue import rq_queue, workers
from shared.redis import connect
from shared.settings import PREFIX, Settings
from tests.support.jobs import Submitter, generation
from tests.support.poll import until
from tests.support.workers import fake_worker

PROMPT = "a prompt that nobody else may read "


@dataclass(frozen=True)
class Dashboard:
    url: str
    queue: str
    job: str
    worker: str


@contextmanager
def busy_dashboard(settings: Settings) -> Iterator[Dashboard]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        PREFIX + "DATA_DIR": str(settings.data_dir),
        PREFIX + "DASHBOARD_PORT": str(port),
        PREFIX + "REDIS_URL": settings.effective_redis_url,
    }
    log = settings.logs_dir / "dashboard.log"
    with (
        fake_worker(settings, step_seconds=0.05),
        connect(settings, "test") as client,
        log.open("wb") as output,
    ):
        model = settings.default_model
        request = generation(PROMPT * 50, model=model, max_tokens=5000)
        Submitter(settings).submit(request)
        rq = rq_queue(client, model)
        until(lambda: len(rq.started_job_registry) == 1, what="the running job")
        (worker,) = workers(client)
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "dashboard"],
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: _answers(url), what=f"the dashboard (log: {log})")
            yield Dashboard(url=url, queue=rq.name, job=request.id, worker=worker)
        finally:
            process.kill()
            process.wait(timeout=10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False
