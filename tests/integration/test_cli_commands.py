"""Commands that look into the data folder and into Redis."""

import io
import json
import os
import socket
from functools import partial
from pathlib import Path

import msgspec
import pytest
from redis import Redis

from cli import state
from cli.state import ProcessState, StackState
from shared import names
from shared.configuration import load_settings
from shared.interaction import Interaction
from shared.ledger import Ledger
from shared.queue import WorkerInfo
from shared.settings import Settings
from shared.store import Store
from tests.support.api import free_port
from tests.support.commands import minivault
from tests.support.jobs import Submitter, generation

PROMPT = "Tell me\nof whales"


@pytest.fixture
def data_dir(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("MINIVAULT_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(monkeypatch, tmp_path, data_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIVAULT_PORT", str(free_port()))
    return partial(minivault, monkeypatch)


@pytest.fixture
def redis_url(monkeypatch, settings: Settings) -> None:
    monkeypatch.setenv("MINIVAULT_REDIS_URL", settings.effective_redis_url)


def row(number: int, prompt: str, response: str) -> Interaction:
    numbers = dict.fromkeys(Interaction.__struct_fields__, 0)
    texts = {
        "id": f"job-{number}",
        "request_id": "",
        "client": "",
        "key": "",
        "model": "m",
        "prompt": prompt,
        "response": response,
        "parameters": "{}",
        "status": "done",
        "finish_reason": "stop",
        "error": None,
        "created_at": f"2026-01-01T00:00:0{number}.000+00:00",
        "finished_at": "",
    }
    return msgspec.convert({**numbers, **texts}, Interaction)


@pytest.fixture
def rows(data_dir) -> list[Interaction]:
    """Two rows; the newer first."""
    settings = load_settings()
    settings.prepare_data_dir()
    rows = [row(2, PROMPT, "They are\tbig. " * 20), row(1, "Hi", "100 % fine")]
    store = Store.open(settings)
    store.save(rows)
    store.close()
    return rows


def test_history_is_a_line_per_row_newest_first(run, rows, capsys) -> None:
    assert run("history") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:5] == ["2026-01-01 00:00:02", "m", "stop", "0", "Tell me of whales"]
    assert len(lines[0][5]) == 60
    assert lines[1][4:] == ["Hi", "100 % fine"]


def test_history_as_json_is_whole_rows(run, rows, capsys) -> None:
    assert run("history", "--json", "--limit", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == [msgspec.to_builtins(rows[0])]


def test_history_can_be_searched(run, rows, capsys) -> None:
    assert run("history", "--json", "--search", "100 %") == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["job-1"]


def test_history_by_key_model_and_time(run, rows, capsys) -> None:
    settings = load_settings()
    store = Store.open(settings)
    store.save([msgspec.structs.replace(rows[0], id="job-3", key="k1", model="other")])
    store.close()

    def found(*options: str) -> list[str]:
        assert run("history", "--json", *options) == 0
        return [row["id"] for row in json.loads(capsys.readouterr().out)]

    assert found("--key", "k1") == found("--model", "other") == ["job-3"]
    assert found("--since", "2026-01-01T00:00:02", "--model", "m") == ["job-2"]
    assert found("--until", "2026-01-01T00:00:02") == ["job-1"]
    assert found("--since", "1h") == found("--status", "failed") == []


def test_history_is_exported_as_lines(run, rows, capsys) -> None:
    assert run("history", "--jsonl") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [msgspec.to_builtins(row) for row in rows]
    assert run("history", "--jsonl", "--limit", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_interactions_are_deleted_and_their_usage_is_not(run, rows, capsys, monkeypatch) -> None:
    assert run("history", "delete") == 2
    assert run("history", "delete", "job-1") == 0
    assert run("history", "delete", "job-1") == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("history", "delete", "--until", "2027-01-01") == 1
    assert run("history", "delete", "--until", "2027-01-01", "--yes") == 0
    assert capsys.readouterr().out.split()[-2:] == ["Deleted", "1"]
    assert run("history", "--json") == 0
    assert capsys.readouterr().out == "[]\n"
    assert run("usage") == 0
    assert capsys.readouterr().out == "2026-01-01\t\tm\t2\t0\t0\t0\n"
    assert run("usage", "--json", "--since", "2026-01-02") == 0
    assert capsys.readouterr().out == "[]\n"


def test_a_moment_that_is_none_is_told(run, data_dir, capsys) -> None:
    for wrong in ("yesterday", "99999999d", "7y", "2026-02-30", ""):
        assert run("history", "--since", wrong) == 2
        assert "is no moment" in capsys.readouterr().err


def test_history_of_an_empty_folder_is_empty(run, data_dir, capsys) -> None:
    assert run("history", "--json") == 0
    assert capsys.readouterr().out == "[]\n"


def test_an_added_model_is_listed_and_its_name_is_taken(run, data_dir, capsys) -> None:
    assert run("models", "add", "mine", "org/model", "--revision", "v1") == 0
    assert capsys.readouterr().out == "Added mine: hub org/model@v1\n"
    assert run("models", "list") == 0
    assert "mine\tnot fetched\tno\thub org/model@v1\n" in capsys.readouterr().out
    assert run("models", "add", "mine", "org/other") == 78
    assert "already has a model 'mine'" in capsys.readouterr().err


def test_an_added_folder_is_kept_as_an_absolute_path(run, data_dir, capsys) -> None:
    data_dir.mkdir()
    assert run("models", "add", "mine", "data") == 0
    assert capsys.readouterr().out == f"Added mine: {data_dir}\n"


@pytest.mark.parametrize("source", ["missing.gguf", "a/b/c", "/no/such", "./x/y", "plain"])
def test_what_is_neither_there_nor_a_repository_is_refused(run, data_dir, capsys, source) -> None:
    assert run("models", "add", "mine", source) == 78
    assert capsys.readouterr().err.startswith(f"There is no file or folder {source}")
    assert not (data_dir / "models.toml").exists()


def test_status_without_a_stack_is_not_ready(run, capsys) -> None:
    assert run("status", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ready"], found["processes"]) == (False, [])
    assert found["models"][0]["ready"] is False


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.usefixtures("redis_url")
def test_status_knows_the_supervisors_worker_by_its_process_or_by_the_one_that_forked_it(
    run, redis: Redis, data_dir, capsys, *, forked: bool
) -> None:
    own = os.getpid()
    pids = {"pid": 1, "parent": own} if forked else {"pid": own, "parent": 1}
    redis.sadd("rq:workers", "rq:worker:w")
    info = WorkerInfo(
        models=(), loaded=(), slots=4, running=3, kv_bytes=0, host=socket.gethostname(), **pids
    )
    redis.set(names.worker_info("w"), msgspec.json.encode(info))
    data_dir.mkdir()
    noted = ProcessState("worker", "worker-1", own, "running", 2, state.start_time(own))
    state.write(load_settings(), StackState(1, "http://127.0.0.1:1", (noted,)))
    assert run("status", "--json") == 1
    workers = json.loads(capsys.readouterr().out)["processes"][1:]
    assert [(each["name"], each["pid"], each["restarts"]) for each in workers] == [
        ("worker-1", own, 2)
    ]
    assert (workers[0]["running"], workers[0]["slots"]) == (3, 4)


def test_status_finds_what_was_started_without_up(
    run, redis_url, settings: Settings, redis: Redis, capsys
) -> None:
    info = WorkerInfo(
        pid=os.getpid(),
        models=("smollm2-135m",),
        loaded=("smollm2-135m",),
        slots=4,
        running=3,
        kv_bytes=5 * 2**20,
        host=socket.gethostname(),
    )
    redis.sadd("rq:workers", "rq:worker:by-hand")
    redis.set(names.worker_info("by-hand"), msgspec.json.encode(info))
    Submitter(settings).submit(generation(), generation(), generation())
    assert Ledger(redis, "by-hand", settings.models).take() is not None
    assert Ledger(redis, "dead", settings.models).take() is not None
    assert run("status", "--json") == 1  # no API
    found = json.loads(capsys.readouterr().out)
    assert [(process["role"], process["pid"]) for process in found["processes"]] == [
        ("redis", redis.info("server")["process_id"]),
        ("worker", os.getpid()),
    ]
    worker = found["processes"][1]
    assert (worker["running"], worker["slots"], worker["kv_bytes"]) == (3, 4, 5 * 2**20)
    (model,) = found["models"]
    assert (model["name"], model["loaded"]) == ("smollm2-135m", 1)
    assert (model["waiting"], model["running"]) == (1, 1)
    assert found["jobs"] == {"stuck": 1, "retried": 0, "failed": 0, "unsaved": 0}
    assert run("status") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split("\t")[3:] == ["running", "0", "3/4", "5 MiB"]
    assert lines[-1] == "Jobs: 1 stuck, 0 retried, 0 failed, 0 unsaved"
