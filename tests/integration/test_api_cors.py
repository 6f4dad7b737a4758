"""What a browser is told about pages of other sites. A real one is in tests/browser."""

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from shared.configuration import load_settings
from shared.errors import SettingsError
from shared.settings import Settings
from tests.support.api import running_api

APP = "https://app.example"
OTHER = "https://evil.example"
ALLOWED = "access-control-allow-origin"


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    changes = {"cors_origins": (APP, "http://localhost:3000"), "rate_limit": "1/day"}
    with running_api(session_settings, **changes) as url:
        yield url


def preflight(url: str, origin: str, method: str, headers: str = "content-type") -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return httpx.options(url, headers={"Origin": origin, **asked})


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/jobs", "POST", "content-type,idempotency-key,authorization"),
        ("/generate/stream", "POST", "content-type,x-api-key,x-stainless-lang"),
        ("/jobs/job-1", "DELETE", "authorization"),
        ("/jobs/job-1/events", "GET", "last-event-id"),
    ],
)
def test_a_page_that_may_is_told_so(url: str, path: str, method: str, headers: str) -> None:
    answer = preflight(url + path, APP, method, headers)
    assert answer.status_code == 200
    assert answer.headers[ALLOWED] == APP
    assert method in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == headers
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "http://app.example", f"{APP}:444", f"{APP}.evil.example", ""]
)
def test_others_are_not(url: str, origin: str, redis: Redis) -> None:
    assert ALLOWED not in preflight(f"{url}/jobs", origin, "POST").headers
    assert ALLOWED not in httpx.get(f"{url}/models", headers={"Origin": origin}).headers


def test_a_preflight_costs_no_permit_and_a_refusal_can_be_read(url: str, redis: Redis) -> None:
    redis.flushall()
    for _ in range(3):
        assert preflight(f"{url}/jobs", APP, "POST").status_code == 200
    first, second = (
        httpx.post(f"{url}/jobs", json={"prompt": "x"}, headers={"Origin": APP}) for _ in range(2)
    )
    assert first.status_code == 202
    assert first.headers[ALLOWED] == APP
    assert (second.status_code, second.headers[ALLOWED]) == (429, APP)
    exposed = second.headers["access-control-expose-headers"].lower().split(", ")
    assert {"retry-after", "ratelimit", "location", "x-request-id"} <= set(exposed)


def test_problems_of_every_kind_can_be_read(url: str, redis: Redis) -> None:
    headers = {"Origin": APP}
    answers = [
        httpx.get(f"{url}/nowhere", headers=headers),
        httpx.get(f"{url}/jobs/job-0", headers=headers),
        httpx.post(f"{url}/jobs", json={}, headers=headers),
        httpx.post(f"{url}/jobs", content=b"x", headers=headers),
        httpx.put(f"{url}/jobs", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 422, 415, 405]
    assert {answer.headers[ALLOWED] for answer in answers} == {APP}


def test_a_star_is_for_everybody(session_settings: Settings) -> None:
    with running_api(session_settings, cors_origins=("*",)) as url:
        assert preflight(f"{url}/jobs", OTHER, "POST").headers[ALLOWED] == "*"
        assert httpx.get(f"{url}/models", headers={"Origin": OTHER}).headers[ALLOWED] == "*"


def test_an_unknown_name_is_refused_whatever_page_asks(url: str) -> None:
    headers = {"Origin": APP, "Host": "evil.example"}
    assert httpx.get(f"{url}/models", headers=headers).status_code == 421


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000", "http://[::1]:8080", "*"])
def test_settings_take_origins(origin: str) -> None:
    assert load_settings(cors_origins=f"{origin}, {APP}").cors_origins == (origin, APP)


@pytest.mark.parametrize(
    "origin",
    ["app.example", f"{APP}/", f"{APP}/path", "null", "https://*.example", "https://App.example"],
)
def test_settings_refuse_what_no_browser_would_send(origin: str) -> None:
    with pytest.raises(SettingsError, match="MINIVAULT_CORS_ORIGINS"):
        load_settings(cors_origins=origin)
