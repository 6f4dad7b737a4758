"""API keys are pushed through everything, and looked for everywhere they must not be."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
from redis import Redis

from shared import keys
from shared.keys import Token
from shared.settings import Settings
from tests.support.api import api_process
from tests.support.keys import bearer, made
from tests.support.raw import HOST, ask
from tests.support.workers import crew

PROMPT = {"prompt": "hello", "temperature": 0}


def command(settings: Settings, *arguments: str, **variables: str) -> tuple[str, list[str]]:
    """What a command says, and the command lines of all processes while it ran."""
    environment = {"MINIVAULT_DATA_DIR": str(settings.data_dir), "MINIVAULT_LOG_LEVEL": "debug"}
    with subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        env=os.environ | environment | variables,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = command_lines()
        said = process.communicate(timeout=60)[0]
    return said, lines


def command_lines() -> list[str]:
    return [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]


def abuse(url: str, token: Token) -> list[str]:
    """Everything that is said to a key in the right place, and in every wrong one."""
    text = token.text
    said = []
    for headers in (bearer(token), {"X-API-Key": text}, {"X-API-Key": text[:-1]}):
        paths = ("/models", f"/jobs/{text}", f"/{text}", f"/metrics?api_key={text}")
        bodies = (b"{", b"[]", text.encode(), json.dumps(PROMPT | {"model": text}).encode())
        as_json = {"Content-Type": "application/json"} | headers
        said += [httpx.get(url + path, headers=headers).text for path in paths]
        said += [httpx.post(f"{url}/jobs", content=body, headers=as_json).text for body in bodies]
        said += [httpx.get(url, headers=headers | {"Host": f"{text}.org"}).text]
    odd = (
        b"Authorization: Bearer " + text.encode() + b"\0\r\n",
        b"Authorization: Bearer\r\n " + text.encode() + b"\r\n",
        b"X-API-Key: " + text.encode() + b"\r\n" + b"X-API-Key: " + text.encode() + b"\r\n",
        b"X-API-Key: " + text.encode() * 500 + b"\r\n",
    )
    head = b"GET /models HTTP/1.1\r\n" + HOST
    return said + [ask(url, head, lines, b"\r\n").body.decode() for lines in odd]


def dump(redis: Redis) -> bytes:
    """All that the server has: values, not only names."""
    return b"".join(key + (redis.dump(key) or b"") for key in redis.keys("*"))


def test_a_key_is_in_no_log_error_metric_process_list_or_store(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    own = settings.model_copy(
        update={"data_dir": data, "database_url": None, "redis_url": settings.effective_redis_url}
    )
    own.prepare_data_dir()
    database = {"MINIVAULT_DATABASE_URL": own.effective_database_url}
    created, lines = command(own, "keys", "create", "canary", "--admin")
    token = keys.read_token(created.splitlines()[0])
    assert token is not None
    rotated_out = made(own)
    rotated, more = command(own, "keys", "rotate", rotated_out.id)
    new = keys.read_token(rotated.splitlines()[0])
    assert new is not None
    lines += more
    key_file = tmp_path / "key"
    key_file.write_text(f"{token.text}\n")
    log = tmp_path / "api.log"
    said = [command(own, "keys", "list")[0], command(own, "keys", "list", "--json")[0]]
    with (
        crew(settings, step_seconds=0.002, hurried=True) as workers,
        api_process(own, log, LOG_FORMAT="json", LOG_LEVEL="debug") as (_, url),
    ):
        workers.start_one(**database)
        for tried in (token, rotated_out, new):
            said += abuse(url, tried)
        answer = httpx.post(f"{url}/generate", json=PROMPT, headers=bearer(token), timeout=30)
        assert answer.json()["response"] == "hello"
        for variables in (
            {"MINIVAULT_API_KEY_FILE": str(key_file)},
            {"MINIVAULT_API_KEY": token.text},
            {"MINIVAULT_API_KEY": token.text + "é"},
            {"MINIVAULT_API_KEY": token.text[:-1]},
        ):
            found, more = command(
                own, "stream", "hello", "--temperature", "0", "--url", url, **variables
            )
            said.append(found)
            lines += more
            is_whole = next(iter(variables.values())) in (str(key_file), token.text)
            assert ("hello\n" in found) == is_whole, found
        lines += command_lines()
        in_redis = dump(redis)
        said.append(httpx.get(f"{url}/metrics", headers=bearer(token)).text)
        said.append(command(own, "status", "--json")[0])
    files = [path for path in data.rglob("*") if path.is_file()]
    files += [log, *settings.logs_dir.glob("workers.log"), *settings.data_dir.glob("redis/**/*")]
    connection = sqlite3.connect(data / "db" / "minivault.db")
    places = {
        "answers": "\n".join(said).encode(),
        "process list": "\n".join(lines).encode(),
        "Redis": in_redis,
        "database": "\n".join(connection.iterdump()).encode(),
        **{str(path): path.read_bytes() for path in files if path.is_file()},
    }
    assert any(path.endswith("minivault.db") for path in places)
    assert b"key refused" in places[str(log)]
    assert keys.digest(token.secret).encode() in places["database"]
    for secret in (token.secret, rotated_out.secret, new.secret):
        for place, content in places.items():
            assert secret.encode() not in content, place
            assert secret[:40].encode() not in content, place
        assert keys.digest(secret).encode() not in places["answers"] + places["process list"]
