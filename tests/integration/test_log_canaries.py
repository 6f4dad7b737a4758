"""Prompts and passwords are pushed through everything that can fail, and looked for in all logs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from shared.settings import PREFIX, Settings
from tests.support import traps
from tests.support.api import api_process
from tests.support.jobs import Submitter, ended, generation
from tests.support.poll import until
from tests.support.workers import crew

USER = "canary"
PASSWORD = "Kanarien/Vogel:1"
QUOTED = "Kanarien%2FVogel%3A1"
WRONG = "zaunkoenig-falsch"
DATABASE_PASSWORD = "rotkehlchen-42"
BEARER = "buchfink-token"
API_KEY = "gimpel-key"
COLLECTOR_KEY = "stieglitz-key"
PROMPT = "the nightingale's secret"
SECRETS = [
    PASSWORD,
    QUOTED,
    WRONG,
    DATABASE_PASSWORD,
    BEARER,
    API_KEY,
    COLLECTOR_KEY,
    PROMPT,
    PROMPT.replace("'", "\\'"),
    "nightingale",
    ", ".join(str(ord(character)) for character in "nightingale"),
]

Ask = Callable[..., httpx.Response]


@pytest.fixture
def login(redis: Redis) -> Iterator[Callable[[str], None]]:
    """Sets the password of a user whom only this test has."""

    def allow(password: str) -> None:
        redis.acl_setuser(
            USER,
            enabled=True,
            reset=True,
            passwords=[f"+{password}"],
            keys=["*"],
            channels=["*"],
            commands=["+@all"],
        )

    allow(PASSWORD)
    yield allow
    redis.acl_deluser(USER)


def url(settings: Settings, password: str = QUOTED) -> str:
    return f"unix://{USER}:{password}@{settings.socket_path}"


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:{COLLECTOR_KEY}@127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {COLLECTOR_KEY}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        f"{PREFIX}LOG_FORMAT": "json",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {
        **variables,
        f"{PREFIX}REDIS_URL": url(settings),
        f"{PREFIX}DATA_DIR": str(settings.data_dir),
    }


def said_by(module: str, *arguments: str, **variables: str) -> str:
    """What a process says that can't start."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "FAKE_STEP_SECONDS": "0", **variables},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert all(json.loads(line)["event"] for line in done.stderr.splitlines())
    return done.stdout + done.stderr


def bad_requests(ask: Ask) -> None:
    answers = [
        ask(content=f'{{"prompt": "{PROMPT}'),
        ask(json={"prompt": [PROMPT]}),
        ask(json={"prompt": PROMPT, "temperature": PROMPT}),
        ask(json={"prompt": PROMPT, PROMPT: 1}),
        ask(json={"prompt": PROMPT, "model": PROMPT}),
        ask(json={"prompt": PROMPT, "stop": [PROMPT * 50]}),
        ask(content=PROMPT, headers={"Content-Type": "text/plain"}),
        ask(json={"prompt": PROMPT * 100_000}),
    ]
    assert {answer.status_code for answer in answers} == {400, 404, 413, 415, 422}
    for answer in answers:
        assert answer.headers["X-Request-ID"] == "sent-along"


def failing_jobs(ask: Ask) -> None:
    for beginning in (traps.CONFUSING_TO_TOKENIZE, traps.CONFUSING_TO_DECODE):
        answer = ask(json={"prompt": beginning + PROMPT, "temperature": 0})
        assert (answer.status_code, answer.json()["code"]) == (502, "generation_failed")


def lines_of(*logs: Path) -> list[dict[str, Any]]:
    """Every line of every log is an object of its own."""
    found = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert all(isinstance(line, dict) and {"event", "level"} <= set(line) for line in found)
    return found


def test_no_log_holds_a_prompt_or_a_password(
    settings: Settings,
    redis: Redis,
    tmp_path: Path,
    login: Callable[[str], None],
    environment: dict[str, str],
) -> None:
    api_log, worker_log = tmp_path / "api.log", settings.logs_dir / "workers.log"
    worker_log.unlink(missing_ok=True)
    commands = ""
    with (
        crew(settings, step_seconds=0.002, hurried=True) as workers,
        api_process(
            settings, api_log, REDIS_URL=url(settings), LOG_FORMAT="json", MAX_BODY_BYTES="100000"
        ) as (api, address),
    ):
        worker = workers.start_one(**environment)

        def ask(**more: Any) -> httpx.Response:
            headers = {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {BEARER}",
                "X-API-Key": API_KEY,
                "X-Request-ID": "sent-along",
                **more.pop("headers", {}),
            }
            return httpx.post(f"{address}/generate", headers=headers, timeout=30, **more)

        assert ask(json={"prompt": PROMPT, "temperature": 0}).json()["response"] == PROMPT
        bad_requests(ask)
        failing_jobs(ask)
        for pid in (api.pid, worker.process.pid):
            commands += " ".join(psutil.Process(pid).cmdline())

        # The password is another one by now, and all connections are cut.
        login("changed-by-the-operator")
        redis.client_kill_filter(user=USER)
        assert ask(json={"prompt": PROMPT}).status_code == 503
        until(lambda: "username-password" in worker_log.read_text(), what="the worker's complaint")
        login(PASSWORD)
        until(lambda: ask(json={"prompt": PROMPT}).is_success, what="Redis again")

        # A job that kills whoever computes it, and a successor without a database.
        deadly = generation(traps.DEADLY_TO_PREFILL, request_id="sent-along")
        Submitter(settings).submit(deadly)
        workers.report(worker)
        broken = f"postgresql+psycopg://me:{DATABASE_PASSWORD}@127.0.0.1:9/db"
        commands += said_by("tests.support.workers", **environment, MINIVAULT_DATABASE_URL=broken)
        Submitter(settings).cancel(deadly.id)
        workers.start_one(**environment)
        ended(redis, deadly.id)
    for name in ("api", "worker"):
        said = said_by("cli", name, **{**environment, f"{PREFIX}REDIS_URL": url(settings, WRONG)})
        assert "refused the login" in said
        assert json.loads(said)["code"] == "redis_unavailable"
        commands += said
    said = commands + api_log.read_text() + worker_log.read_text()
    for secret in SECRETS:
        assert secret not in said, secret
    told = lines_of(api_log, worker_log)
    assert {"step failed", "prompt failed", "job ended"} <= {line["event"] for line in told}
    about_jobs = [line for line in told if "job_id" in line]
    assert {line["request_id"] for line in about_jobs} == {"sent-along"}
