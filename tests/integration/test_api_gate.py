"""Who may ask, for what, and what a browser is told to do with the answer."""

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from api.main import listening
from shared import names
from shared.errors import SettingsError
from shared.settings import Settings
from tests.support.api import free_port, running_api
from tests.support.raw import ask

PATHS = ["/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/nowhere"]


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with running_api(session_settings, allowed_hosts=("mine.example",)) as url:
        yield url


def get(url: str, host: str) -> httpx.Response:
    return httpx.get(url, headers={"Host": host})


@pytest.mark.parametrize("path", PATHS)
def test_a_page_that_points_its_name_at_us_reads_nothing(url: str, path: str) -> None:
    response = get(url + path, "evil.example:8000")
    assert (response.status_code, response.json()["code"]) == (421, "unknown_host")
    assert "MINIVAULT_ALLOWED_HOSTS" in response.json()["detail"]
    assert get(url + path, "mine.example").status_code != 421
    assert get(url + path, "localhost:8000").status_code != 421


def test_nor_does_it_start_anything(url: str, redis: Redis) -> None:
    response = httpx.post(f"{url}/jobs", json={"prompt": "x"}, headers={"Host": "evil.example"})
    assert response.status_code == 421
    assert redis.zcard(names.JOBS) == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/jobs"])
def test_a_form_on_another_site_starts_nothing(
    url: str, redis: Redis, path: str, content_type: str
) -> None:
    """These three a browser sends to anybody without asking first."""
    headers = {"Content-Type": content_type, "Origin": "http://evil.example"}
    response = httpx.post(url + path, content=b'{"prompt": "x"}', headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert redis.zcard(names.JOBS) == 0


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_browser_that_asks_first_is_not_encouraged(url: str, method: str) -> None:
    headers = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type",
    }
    response = httpx.options(f"{url}/jobs/x", headers=headers)
    assert response.status_code == 405
    response = httpx.get(f"{url}/models", headers=headers)
    assert not any(name.startswith("access-control") for name in response.headers)


def test_browsers_are_told_what_an_answer_is_not(url: str, redis: Redis) -> None:
    job = httpx.post(f"{url}/jobs", json={"prompt": "x"})
    answers = [httpx.get(url + path) for path in [*PATHS, job.headers["location"]]]
    with httpx.stream("POST", f"{url}/generate/stream", json={"prompt": "x"}) as stream:
        answers.append(stream)
    for response in [job, *answers]:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers
    assert stream.headers["x-accel-buffering"] == "no"
    raw = ask(url, b"rubbish\r\n\r\n").headers
    assert raw["x-content-type-options"] == "nosniff"
    assert "server" not in raw


def test_the_docs_can_be_closed(settings: Settings) -> None:
    with running_api(settings, docs="off") as url:
        for path in ("/docs", "/redoc", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
            response = httpx.get(url + path)
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert httpx.get(f"{url}/models").status_code == 200
        assert httpx.put(f"{url}/jobs").headers["allow"] == "POST"


def test_metrics_with_a_port_of_their_own_are_on_no_other(settings: Settings) -> None:
    port = free_port()
    inside = f"http://127.0.0.1:{port}"
    with running_api(settings, metrics_port=port) as url:
        for path in ("/metrics", "/%6detrics"):
            response = httpx.get(url + path)
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert "/metrics" not in httpx.get(f"{url}/openapi.json").json()["paths"]
        assert httpx.get(f"{url}/healthz").status_code == 200
        # Prometheus calls it by whatever name it was given.
        found = get(f"{inside}/metrics", "api:9100")
        assert found.headers["content-type"].startswith("text/plain; version=")
        assert "minivault_redis_up 1.0" in found.text
        assert get(f"{inside}/healthz", "api:9100").status_code == 200
        assert get(f"{inside}/readyz", "api:9100").status_code == 503
        for path in ("/models", "/docs", "/jobs/x"):
            assert httpx.get(inside + path).status_code == 404
        assert httpx.post(f"{inside}/jobs", json={"prompt": "x"}).status_code == 404


def test_metrics_are_read_when_nobody_else_is_let_in(settings: Settings) -> None:
    port = free_port()
    with (
        running_api(settings, metrics_port=port, max_connections=1) as url,
        httpx.Client() as only,
    ):
        assert only.get(f"{url}/models").status_code == 200
        assert httpx.get(f"{url}/models").status_code == 503
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'minivault_refusals_total{code="too_many_connections"} 1.0' in metrics


def test_one_port_can_not_be_both(settings: Settings) -> None:
    both = settings.model_copy(update={"metrics_port": settings.port, "metrics_host": "127.0.0.2"})
    with (
        pytest.raises(SettingsError, match="MINIVAULT_METRICS_PORT and MINIVAULT_PORT"),
        listening(both),
    ):
        pass
