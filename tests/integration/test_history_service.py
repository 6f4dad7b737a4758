"""From a request to the history, through a real API, a real worker process and back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from redis import Redis

from shared import names
from shared.settings import Settings
from shared.store import Store
from tests.support.api import running_api
from tests.support.poll import until
from tests.support.rows import row
from tests.support.workers import fake_worker

PROMPT = "qjxzvwkqzjvx, and nothing else"


@pytest.fixture
def alone(settings: Settings, tmp_path: Path) -> Settings:
    """With a database of its own."""
    (tmp_path / "db").mkdir()
    path = tmp_path / "db" / "minivault.db"
    return settings.model_copy(update={"database_url": f"sqlite:///{path}"})


def test_an_answer_is_in_the_history_and_in_the_usage(alone: Settings) -> None:
    with fake_worker(alone), running_api(alone) as url:
        answer = httpx.post(
            f"{url}/generate", json={"prompt": PROMPT, "seed": 7}, timeout=30
        ).json()
        found = httpx.get(f"{url}/interactions/{answer['id']}").json()
        assert (found["prompt"], found["response"]) == (PROMPT, answer["response"])
        assert found["parameters"]["seed"] == 7
        assert found["completion_tokens"] == answer["usage"]["completion_tokens"]
        page = httpx.get(f"{url}/interactions", params={"search": "vwkq nothing"}).json()
        assert [each["id"] for each in page["interactions"]] == [answer["id"]]
        (used,) = httpx.get(f"{url}/usage").json()["usage"]
        assert used["requests"] == 1
        assert used["completion_tokens"] == answer["usage"]["completion_tokens"]


def test_with_texts_off_only_the_log_has_them(alone: Settings, redis: Redis) -> None:
    silent = alone.model_copy(update={"store_text": "off"})
    with fake_worker(silent), running_api(silent) as url:
        body = {"prompt": PROMPT, "stop": ["zzjxqq"]}
        answer = httpx.post(f"{url}/generate", json=body, timeout=30).json()
        found = httpx.get(f"{url}/interactions/{answer['id']}").json()
        assert (found["prompt"], found["response"], found["parameters"]["stop"]) == ("", "", [])
        assert found["completion_tokens"] == answer["usage"]["completion_tokens"] > 0
        folder = Path(str(alone.database_url).removeprefix("sqlite:///")).parent
        content = b"".join(path.read_bytes() for path in folder.iterdir())
        for start in range(12 - 2):
            assert PROMPT[start : start + 3].encode() not in content
        assert b"zzjxqq" not in content
        log = redis.xrange(names.events(answer["id"]))
        assert PROMPT in str(log)
        assert 0 < redis.ttl(names.events(answer["id"])) <= silent.result_ttl


def test_a_worker_retires_what_is_too_old(alone: Settings) -> None:
    store = Store.open(alone)
    young = (datetime.now(UTC) - timedelta(days=6)).isoformat(timespec="milliseconds")
    store.save([row("old"), row("young", created_at=young)])
    with fake_worker(alone.model_copy(update={"history_days": 7.0})):
        until(lambda: store.find("old") is None, what="the old row's end")
        assert store.find("young") is not None
