"""What supervisors, load balancers and readers of the documentation see."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest
from redis import Redis

from shared import names
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.scripted_worker import ScriptedWorker, words


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running_api(settings) as url:
        yield url


@pytest.fixture
def worker(redis: Redis, settings: Settings) -> ScriptedWorker:
    return ScriptedWorker(redis, settings.default_model, words())


def test_ready_needs_a_live_worker_for_the_default_model(
    url: str, worker: ScriptedWorker, redis: Redis
) -> None:
    response = httpx.get(f"{url}/readyz")
    assert (response.status_code, response.json()["code"]) == (503, "no_worker")
    assert response.json()["detail"] == "No live worker serves the default model, smollm2-135m."
    assert response.headers["retry-after"]
    worker.announce()
    assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}
    redis.delete(names.worker_info(worker.NAME))  # its heartbeat ran out
    assert httpx.get(f"{url}/readyz").status_code == 503


def test_a_worker_for_other_models_does_not_count(url: str, redis: Redis) -> None:
    ScriptedWorker(redis, "distilgpt2", words()).announce()
    assert httpx.get(f"{url}/readyz").json()["code"] == "no_worker"


def test_models_tell_what_is_loaded(settings: Settings, worker: ScriptedWorker) -> None:
    with running_api(settings, models=("smollm2-135m", "distilgpt2")) as url:
        worker.announce(loaded=False)
        found = httpx.get(f"{url}/models").json()["models"]
        assert [(each["name"], each["default"], each["loaded"]) for each in found] == [
            ("smollm2-135m", True, False),
            ("distilgpt2", False, False),
        ]
        worker.announce(loaded=True)
        assert httpx.get(f"{url}/models").json()["models"][0]["loaded"] is True


def test_without_redis_the_process_is_alive_but_not_ready(settings: Settings) -> None:
    with running_api(settings, redis_url="redis://127.0.0.1:1", rate_limit="5/minute") as url:
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        for response in (
            httpx.get(f"{url}/readyz"),
            httpx.get(f"{url}/models"),
            httpx.get(f"{url}/jobs/x"),
            httpx.get(f"{url}/jobs/x/events"),
            httpx.post(f"{url}/generate", json={"prompt": "x"}),
            httpx.post(f"{url}/generate/stream", json={"prompt": "x"}),
        ):
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == "redis_unavailable"
            assert response.headers["retry-after"]


def test_without_redis_nothing_is_enqueued_without_a_listener(settings: Settings) -> None:
    with running_api(settings, redis_url="redis://127.0.0.1:1") as url:
        response = httpx.post(f"{url}/generate", json={"prompt": "x"})
    assert (response.status_code, response.json()["code"]) == (503, "redis_unavailable")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in {"src", "href"} and value]


def test_the_docs_page_needs_no_network(url: str) -> None:
    page = httpx.get(f"{url}/docs")
    assert page.status_code == 200
    links = Links()
    links.feed(page.text)
    assert len(links.found) >= 2
    for link in links.found:
        assert link.startswith("/"), link
        assert httpx.get(url + link).status_code == 200
    # Nor does its script: what it would load comes from this process.
    assert set(re.findall(r"https?://[^/\"'\s]+", page.text)) == set()


def test_the_openapi_document_holds_the_settings_and_working_examples(
    settings: Settings, url: str
) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    schemas = document["components"]["schemas"]
    body = schemas["GenerateBody"]
    assert body["properties"]["max_tokens"]["anyOf"][0]["maximum"] == settings.max_tokens
    assert body["additionalProperties"] is False
    assert "Problem" in schemas
    assert "HTTPValidationError" not in str(document)
    for path, operations in document["paths"].items():
        kind = "application/json" if path.startswith("/v1/") else "application/problem+json"
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "4":
                    assert list(response["content"]) == [kind]
    from api.schemas import GenerateBody

    for example in body["examples"]:
        GenerateBody.model_validate(example)


@pytest.mark.parametrize("path", ["/healthz", "/models", "/nothing", "/docs"])
def test_every_answer_has_a_request_id(url: str, path: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", httpx.get(url + path).headers["x-request-id"])
    assert httpx.get(url + path, headers={"X-Request-ID": "a-1"}).headers["x-request-id"] == "a-1"
