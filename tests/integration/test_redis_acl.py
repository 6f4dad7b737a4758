"""Everything that MiniVault does to Redis, done with no more rights than docs/scaling.md gives."""

import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from cli import status
from shared import names
from shared.failed import put_back
from shared.redis import connect, require
from shared.settings import Settings
from tests.support.api import running_api, stream
from tests.support.dashboard import busy_dashboard
from tests.support.jobs import MODEL, Submitter, ended, generation, streams, under_way
from tests.support.poll import until
from tests.support.valkey import running_valkey
from tests.support.workers import BROKEN_MODEL, crew

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.fixture
def admin(session_settings: Settings, short_tmp: Path) -> Iterator[Redis]:
    """A server of its own, and a user who may do everything."""
    own = session_settings.model_copy(update={"data_dir": short_tmp / "acl"})
    with running_valkey(own), connect(own, "admin") as client:
        yield client
    shutil.rmtree(own.data_dir)


@pytest.fixture
def restricted(session_settings: Settings, short_tmp: Path, admin: Redis) -> Settings:
    """Settings of somebody who has the documented rights."""
    (rights,) = re.findall(
        r"ACL SETUSER (.+?)\n```", DOCS.read_text().replace("\\\n", ""), re.DOTALL
    )
    admin.execute_command("ACL", "SETUSER", *rights.replace("<password>", "secret").split())
    own = session_settings.model_copy(update={"data_dir": short_tmp / "acl"})
    url = own.effective_redis_url.replace("unix://", "unix://minivault:secret@")
    models = (MODEL, BROKEN_MODEL)
    return own.model_copy(update={"redis_url": url, "models": models, "rate_limit": "100/minute"})


def test_the_documented_rights_are_enough(restricted: Settings, admin: Redis) -> None:
    with connect(restricted, "test") as client, running_api(restricted) as url:
        require(client, restricted)
        with crew(restricted, step_seconds=0.01, hurried=True) as workers:
            dying, _ = workers.start(2)
            body = {"prompt": "hello", "temperature": 0}
            assert stream(url, body)[-1].event == "done"
            counted = httpx.post(f"{url}/tokenize", json={"prompt": "hello"})
            assert counted.json()["count"] == len("hello")
            failed = httpx.post(f"{url}/jobs", json=body | {"model": BROKEN_MODEL}).json()["id"]
            ended(client, failed)
            until(lambda: put_back(client, failed), what="the failed job, put back")
            ended(client, failed)
            requests = streams(8, 100)
            Submitter(restricted).submit(*requests)
            under_way(client, requests)
            job = httpx.post(f"{url}/jobs", json=body | {"prompt": "x" * 900}).json()["id"]
            for path in ("/readyz", "/metrics", "/models", f"/jobs/{job}"):
                assert httpx.get(f"{url}{path}").status_code == 200
            assert httpx.delete(f"{url}/jobs/{job}").status_code < 300
            for method, action in (
                ("POST", "load"),
                ("PUT", "pin"),
                ("DELETE", "pin"),
                ("POST", "pull"),
                ("POST", "unload?withdraw=true"),
            ):
                acted = httpx.request(method, f"{url}/models/distilgpt2/{action}", timeout=30)
                assert acted.status_code == 200, (action, acted.text)
            dying.kill()
            workers.report(dying)
            for request in requests:
                ended(client, request.id)
            by_hand = generation("by hand")
            Submitter(restricted).submit(by_hand)
            known = {"port": int(url.rpartition(":")[2]), "models": (MODEL,)}
            status.collect(restricted.model_copy(update=known))
            until(lambda: client.zcard(names.JOBS) == 0, what="the end of all")
    for key in admin.keys("minivault:worker:*"):
        admin.delete(key)  # as it expires: the dashboard is to have one worker
    with busy_dashboard(restricted) as dashboard:
        for path in ("/", "/0/data/queues.json", "/0/data/workers.json"):
            with urllib.request.urlopen(f"{dashboard.url}{path}") as reply:
                assert reply.status == 200
    refused = [(entry["object"], entry["reason"]) for entry in admin.acl_log()]
    assert refused == []


def test_the_documented_rights_end_where_other_data_begins(restricted: Settings) -> None:
    with connect(restricted, "test") as client:
        for command in (["GET", "theirs"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"]):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)
