"""Whatever a client sends, it gets a 4xx problem document that says what to mend."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from shared.settings import Settings
from tests.support.api import running_api

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with running_api(session_settings) as url:
        yield url


def field(name: str, value: Any) -> bytes:
    return json.dumps({"prompt": "x", name: value}).encode()


def turns(times: int = 1, *, echo: bool = False, raw: bool = False, **changes: Any) -> bytes:
    turn = {"role": "user", "content": "x"} | changes
    body = {"messages": times * [turn], "echo": echo, "raw": raw}
    return json.dumps(body).encode()


# body, status, code, field named in `errors`
BAD_BODIES: dict[str, tuple[bytes, int, str, str | None]] = {
    "nothing": (b"", 422, "invalid_request", "body"),
    "broken": (b'{"prompt": "x"', 400, "invalid_json", None),
    "no-utf8": (b'{"prompt": "\xff"}', 400, "invalid_json", None),
    "two-documents": (b'{"prompt": "x"} {}', 400, "invalid_json", None),
    "array": (b"[]", 422, "invalid_request", "body"),
    "null": (b"null", 422, "invalid_request", "body"),
    "string": (b'"x"', 422, "invalid_request", "body"),
    "empty-object": (b"{}", 422, "invalid_request", "prompt"),
    "empty-prompt": (field("prompt", ""), 422, "invalid_request", "prompt"),
    "null-prompt": (field("prompt", None), 422, "invalid_request", "prompt"),
    "both": (
        field("messages", [{"role": "user", "content": "x"}]),
        422,
        "invalid_request",
        "prompt",
    ),
    "no-messages": (b'{"messages": []}', 422, "invalid_request", "messages"),
    "null-messages": (b'{"messages": null}', 422, "invalid_request", "messages"),
    "text-messages": (b'{"messages": "x"}', 422, "invalid_request", "messages"),
    "role": (turns(role="tool"), 422, "invalid_request", "messages.0.role"),
    "no-role": (turns(role=None), 422, "invalid_request", "messages.0.role"),
    "null-content": (turns(content=None), 422, "invalid_request", "messages.0.content"),
    "parts": (turns(content=[{"type": "text"}]), 422, "invalid_request", "messages.0.content"),
    "name": (turns(name="x"), 422, "invalid_request", "messages.0.name"),
    "turn-nul": (turns(content="a\0b"), 422, "invalid_request", "messages.0.content"),
    "turn-surrogate": (turns(content="\ud800"), 422, "invalid_request", "messages.0.content"),
    "many-turns": (turns(times=1001), 422, "invalid_request", "messages"),
    "turns-echo": (turns(echo=True), 422, "invalid_request", "echo"),
    "turns-raw": (turns(raw=True), 422, "invalid_request", "raw"),
    "number-prompt": (field("prompt", 5), 422, "invalid_request", "prompt"),
    "list-prompt": (field("prompt", ["x"]), 422, "invalid_request", "prompt"),
    "nul": (field("prompt", "a\0b"), 422, "invalid_request", "prompt"),
    "lone-surrogate": (b'{"prompt": "\\ud800"}', 422, "invalid_request", "prompt"),
    "surrogates-swapped": (b'{"prompt": "\\ude00\\ud83d"}', 422, "invalid_request", "prompt"),
    "unknown-field": (field("tempurature", 1), 422, "invalid_request", "tempurature"),
    "unknown-surrogate": (b'{"prompt": "x", "\\ud800": 1}', 422, "invalid_request", "body"),
    "unknown-huge": (field("z" * 100_000, 1), 422, "invalid_request", "z" * 100),
    "model-unknown": (field("model", "gpt-5"), 404, "unknown_model", None),
    "model-path": (field("model", "/etc/passwd"), 404, "unknown_model", None),
    "model-dots": (field("model", "../../smollm2-135m"), 404, "unknown_model", None),
    "model-hub": (field("model", "HuggingFaceTB/SmolLM2-135M"), 404, "unknown_model", None),
    "model-empty": (field("model", ""), 404, "unknown_model", None),
    "model-catalog-only": (field("model", "distilgpt2"), 404, "unknown_model", None),
    "model-number": (field("model", 1), 422, "invalid_request", "model"),
    "model-surrogate": (b'{"prompt":"x","model":"\\ud800"}', 404, "unknown_model", None),
    "stop-surrogate": (b'{"prompt":"x","stop":"\\ud800"}', 422, "invalid_request", "stop.0"),
    "max-tokens-0": (field("max_tokens", 0), 422, "invalid_request", "max_tokens"),
    "max-tokens-many": (field("max_tokens", 1025), 422, "invalid_request", "max_tokens"),
    "max-tokens-huge": (field("max_tokens", 10**400), 422, "invalid_request", "max_tokens"),
    "max-tokens-text": (field("max_tokens", "5"), 422, "invalid_request", "max_tokens"),
    "max-tokens-true": (field("max_tokens", True), 422, "invalid_request", "max_tokens"),
    "max-tokens-float": (field("max_tokens", 1.5), 422, "invalid_request", "max_tokens"),
    "int-too-long": (b'{"prompt":"x","seed":' + b"9" * 5000 + b"}", 400, "invalid_json", None),
    "temperature-low": (field("temperature", -0.1), 422, "invalid_request", "temperature"),
    "temperature-high": (field("temperature", 2.1), 422, "invalid_request", "temperature"),
    "temperature-nan": (field("temperature", float("nan")), 422, "invalid_request", "temperature"),
    "temperature-inf": (field("temperature", float("inf")), 422, "invalid_request", "temperature"),
    "temperature-1e999": (b'{"prompt":"x","temperature":1e999}', 422, "invalid_request", None),
    "temperature-huge": (field("temperature", 10**400), 422, "invalid_request", "temperature"),
    "temperature-text": (field("temperature", "1"), 422, "invalid_request", "temperature"),
    "temperature-true": (field("temperature", True), 422, "invalid_request", "temperature"),
    "temperature-null": (field("temperature", None), 422, "invalid_request", "temperature"),
    "top-p-0": (field("top_p", 0), 422, "invalid_request", "top_p"),
    "top-p-high": (field("top_p", 1.01), 422, "invalid_request", "top_p"),
    "top-k-low": (field("top_k", -1), 422, "invalid_request", "top_k"),
    "top-k-huge": (field("top_k", 2**70), 422, "invalid_request", "top_k"),
    "min-p": (field("min_p", 1.5), 422, "invalid_request", "min_p"),
    "repetition-0": (field("repetition_penalty", 0), 422, "invalid_request", "repetition_penalty"),
    "presence": (field("presence_penalty", 2.5), 422, "invalid_request", "presence_penalty"),
    "frequency": (field("frequency_penalty", -3), 422, "invalid_request", "frequency_penalty"),
    "seed-low": (field("seed", -1), 422, "invalid_request", "seed"),
    "seed-high": (field("seed", 2**53), 422, "invalid_request", "seed"),
    "seed-text": (field("seed", "1"), 422, "invalid_request", "seed"),
    "stop-empty": (field("stop", ""), 422, "invalid_request", "stop.0"),
    "stop-long": (field("stop", "x" * 201), 422, "invalid_request", "stop.0"),
    "stop-many": (field("stop", ["x"] * 9), 422, "invalid_request", "stop"),
    "stop-number": (field("stop", ["x", 1]), 422, "invalid_request", "stop.1"),
    "stop-object": (field("stop", {}), 422, "invalid_request", "stop"),
    "stop-nested": (field("stop", [["x"]]), 422, "invalid_request", "stop.0"),
    "background-text": (field("background", "yes"), 422, "invalid_request", "background"),
    "priority-low": (field("priority", -1), 422, "invalid_request", "priority"),
    "priority-high": (field("priority", 10), 422, "invalid_request", "priority"),
    "priority-text": (field("priority", "9"), 422, "invalid_request", "priority"),
    "priority-not-allowed": (field("priority", 1), 403, "priority_not_allowed", None),
    "ttl-0": (field("ttl", 0), 422, "invalid_request", "ttl"),
    "ttl-short": (field("ttl", 0.9), 422, "invalid_request", "ttl"),
    "ttl-long": (field("ttl", 3601), 422, "invalid_request", "ttl"),
    "ttl-inf": (field("ttl", float("inf")), 422, "invalid_request", "ttl"),
    "ttl-text": (field("ttl", "5"), 422, "invalid_request", "ttl"),
    "echo-number": (field("echo", 1), 422, "invalid_request", "echo"),
    "raw-text": (field("raw", "true"), 422, "invalid_request", "raw"),
    "deep": (b'{"prompt":' + b"[" * 100_000, 400, "invalid_json", None),
    "deep-and-whole": (
        b'{"prompt":"x","stop":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        400,
        "invalid_json",
        None,
    ),
    "10-mb": (field("prompt", "x" * 10_000_000), 413, "body_too_large", None),
}


@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/jobs"])
@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body(url: str, path: str, case: str) -> None:
    body, status, code, named = BAD_BODIES[case]
    response = httpx.post(url + path, content=body, headers=JSON)
    document = problem(response)
    assert (response.status_code, document["code"]) == (status, code), document
    if named is not None:
        assert named in [error["field"] for error in document["errors"]]
    # The document never gives the input back.
    assert len(response.content) < 2000


def test_many_problems_are_told_together_and_not_without_end(url: str) -> None:
    body = json.dumps({"prompt": "", "seed": -1, **{f"f{n}": n for n in range(5000)}}).encode()
    document = problem(httpx.post(f"{url}/generate", content=body, headers=JSON))
    assert len(document["errors"]) == 20
    assert [error["field"] for error in document["errors"][:3]] == ["prompt", "seed", "f0"]
    assert document["errors"][2]["message"] == "There is no such field."


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a;b/c"],
)
def test_another_content_type(url: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = httpx.post(f"{url}/generate", content=b'{"prompt": "x"}', headers=headers)
    assert (response.status_code, problem(response)["code"]) == (415, "unsupported_media_type")


def test_a_chunked_body_is_measured_as_it_comes(url: str) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"x" * 50_000
        yield b'"}'

    response = httpx.post(f"{url}/generate", content=parts(), headers=JSON)
    assert "transfer-encoding" in response.request.headers
    assert (response.status_code, problem(response)["code"]) == (413, "body_too_large")


def test_a_declared_length_is_refused_before_the_body(url: str) -> None:
    head = b"Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
    status, body = exchange(url, b"POST /generate HTTP/1.1\r\nHost: localhost\r\n" + head)
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Bad Header\r\n\r\n",
    ],
)
def test_what_is_not_http_never_reaches_the_application(url: str, head: bytes) -> None:
    status, _ = exchange(
        url,
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + head,
    )
    assert 400 <= status < 500


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/jobs", "/models", "/docs"])
def test_another_method(url: str, method: str, path: str) -> None:
    response = httpx.request(method, url + path)
    if method != "HEAD":  # which has no body
        assert problem(response)["code"] == "method_not_allowed"
    assert response.status_code == 405
    assert response.headers["allow"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/jobs", "POST"),
        ("/jobs/x", "DELETE, GET"),
        ("/jobs/x/events", "GET"),
        ("/static-offline-docs/swagger-ui.css", "GET, HEAD"),
    ],
)
def test_all_methods_of_a_path_are_named(url: str, path: str, allowed: str) -> None:
    response = httpx.patch(url + path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "path", ["/", "/generate/", "/models/", "/jobs/", "/GENERATE", "/%00", "/a/../b"]
)
def test_another_path(url: str, path: str) -> None:
    for response in (httpx.get(url + path), httpx.post(url + path, json={"prompt": "x"})):
        assert (response.status_code, problem(response)["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["%00", "../../pyproject.toml", "%2e%2e/%2e%2e/x", "a" * 5000])
def test_the_docs_files_are_all_that_is_served(url: str, path: str) -> None:
    response = httpx.get(f"{url}/static-offline-docs/{path}")
    assert (response.status_code, problem(response)["code"]) == (404, "not_found")


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json", response.text[:200]
    assert response.headers["x-request-id"]
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status_code
    assert {"type", "title", "status", "detail", "code"} <= document.keys()
    return document


def exchange(url: str, request: bytes) -> tuple[int, bytes]:
    """Send raw bytes; returns the status and the body of the answer."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(request)
        response = HTTPResponse(raw)
        response.begin()
        return response.status, response.read()
