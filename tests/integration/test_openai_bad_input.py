"""Whatever a client sends to `/v1`, it gets a 4xx in OpenAI's shape that says what to mend."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.settings import Settings
from tests.support.api import running_api

JSON = {"Content-Type": "application/json"}
MODEL = "smollm2-135m"
TURN = {"role": "user", "content": "x"}
MINIMAL: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": MODEL, "messages": [TURN]},
    "completions": {"model": MODEL, "prompt": "x"},
}


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with running_api(session_settings) as url:
        yield url


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


RAW: dict[str, tuple[bytes, int, str, str | None]] = {
    "nothing": (b"", 400, "missing_required_parameter", None),
    "broken": (b'{"model": "x"', 400, "invalid_json", None),
    "no-utf8": (b'{"model": "\xff"}', 400, "invalid_json", None),
    "two-documents": (b"{} {}", 400, "invalid_json", None),
    "array": (b"[]", 400, "invalid_type", None),
    "null": (b"null", 400, "invalid_type", None),
    "string": (b'"x"', 400, "invalid_type", None),
    "empty-object": (b"{}", 400, "missing_required_parameter", "model"),
    "deep": (b'{"model":' + b"[" * 100_000, 400, "invalid_json", None),
    "deep-and-whole": (b'{"messages":' + deep(20_000) + b"}", 400, "invalid_json", None),
    "int-too-long": (b'{"seed":' + b"9" * 5000 + b"}", 400, "invalid_json", None),
    "10-mb": (b'{"prompt":"' + b"x" * 10_000_000 + b'"}', 413, "body_too_large", None),
}
"""Body, status, code, param."""

FIELDS: dict[str, tuple[str, Any, int, str, str | None]] = {
    "unknown": ("tempurature", 1, 400, "unknown_parameter", "tempurature"),
    "unknown-huge": ("z" * 100_000, 1, 400, "unknown_parameter", "z" * 100),
    "unknown-private": ("__class__", {}, 400, "unknown_parameter", "__class__"),
    "unknown-schema_": ("schema_", {}, 400, "unknown_parameter", "schema_"),
    "model-unknown": ("model", "gpt-4o", 404, "model_not_found", "model"),
    "model-path": ("model", "../../etc/passwd", 404, "model_not_found", "model"),
    "model-empty": ("model", "", 404, "model_not_found", "model"),
    "model-list": ("model", [MODEL], 400, "invalid_type", "model"),
    "temperature-nan": ("temperature", float("nan"), 400, "invalid_value", "temperature"),
    "temperature-inf": ("temperature", float("inf"), 400, "invalid_value", "temperature"),
    "temperature-huge": ("temperature", 10**400, 400, "invalid_type", "temperature"),
    "temperature-text": ("temperature", "1", 400, "invalid_type", "temperature"),
    "max-tokens-many": ("max_tokens", 1025, 400, "invalid_value", "max_tokens"),
    "max-tokens-huge": ("max_tokens", 10**400, 400, "invalid_value", "max_tokens"),
    "max-tokens-true": ("max_tokens", True, 400, "invalid_type", "max_tokens"),
    "seed-huge": ("seed", 2**63, 400, "invalid_value", "seed"),
    "stop-nul": ("stop", "a\0", 400, "invalid_value", "stop[0]"),
    "stop-empty": ("stop", [""], 400, "invalid_value", "stop[0]"),
    "stop-nested": ("stop", [["x"]], 400, "invalid_type", "stop[0]"),
    "n-many": ("n", 10**9, 400, "invalid_value", "n"),
    "bias-keys": ("logit_bias", {"\u0661": 1}, 400, "invalid_value", "logit_bias"),
    "bias-nan": ("logit_bias", {"1": float("nan")}, 400, "invalid_value", "logit_bias"),
    "bias-huge": ("logit_bias", {"1": 10**400}, 400, "invalid_value", "logit_bias"),
    "bias-long": ("logit_bias", {"9" * 5000: 1}, 400, "invalid_value", "logit_bias"),
    "bias-many": (
        "logit_bias",
        {str(n): 1 for n in range(1025)},
        400,
        "invalid_value",
        "logit_bias",
    ),
    "bias-list": ("logit_bias", [], 400, "invalid_type", "logit_bias"),
    "options": ("stream_options", {"include_usage": True}, 400, "invalid_value", "stream_options"),
    "ttl-long": ("ttl", 3601, 400, "invalid_value", "ttl"),
    "priority": ("priority", 5, 403, "priority_not_allowed", "priority"),
    "user-number": ("user", 5, 400, "invalid_type", "user"),
}
"""Field, value, status, code, param; for both endpoints."""

SCHEMA = {"type": "json_schema", "json_schema": {"name": "x"}}
NAMED = {"name": "x", "schema": {"enum": [float("inf")]}}
CHAT: dict[str, tuple[str, Any, str, str]] = {
    "messages-none": ("messages", [], "invalid_value", "messages"),
    "messages-text": ("messages", "x", "invalid_type", "messages"),
    "messages-null": ("messages", None, "invalid_type", "messages"),
    "message-text": ("messages", ["x"], "invalid_type", "messages[0]"),
    "message-empty": ("messages", [{}], "missing_required_parameter", "messages[0].role"),
    "message-unknown": (
        "messages",
        [{**TURN, "weight": 1}],
        "unknown_parameter",
        "messages[0].weight",
    ),
    "role": ("messages", [{**TURN, "role": "king"}], "invalid_value", "messages[0].role"),
    "role-list": ("messages", [{**TURN, "role": ["user"]}], "invalid_value", "messages[0].role"),
    "role-tool": ("messages", [{**TURN, "role": "tool"}], "unsupported_value", "messages[0].role"),
    "content-nul": (
        "messages",
        [{**TURN, "content": "\0"}],
        "invalid_value",
        "messages[0].content",
    ),
    "content-surrogate": (
        "messages",
        [{**TURN, "content": "\ud800"}],
        "invalid_value",
        "messages[0].content",
    ),
    "content-number": ("messages", [{**TURN, "content": 5}], "invalid_type", "messages[0].content"),
    "content-image": (
        "messages",
        [TURN, {**TURN, "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}],
        "unsupported_value",
        "messages[1].content",
    ),
    "content-type": (
        "messages",
        [{**TURN, "content": [{"type": {}, "text": "x"}]}],
        "invalid_value",
        "messages[0].content",
    ),
    "format-none": ("response_format", {}, "missing_required_parameter", "response_format.type"),
    "format-type": ("response_format", {"type": "xml"}, "invalid_value", "response_format.type"),
    "format-schema": (
        "response_format",
        SCHEMA,
        "missing_required_parameter",
        "response_format.json_schema.schema",
    ),
    "format-inf": (
        "response_format",
        {"type": "json_schema", "json_schema": NAMED},
        "invalid_value",
        "response_format",
    ),
    "metadata": ("metadata", {"a": 5}, "invalid_type", "metadata.a"),
    "metadata-many": ("metadata", {str(n): "" for n in range(17)}, "invalid_value", "metadata"),
    "top": ("top_logprobs", 1, "invalid_value", "top_logprobs"),
    "modalities": ("modalities", ["audio"], "unsupported_value", "modalities"),
    "tools": ("tools", {"a": "{b}"}, "unsupported_parameter", "tools"),
    "max-completion": ("max_completion_tokens", 5000, "invalid_value", "max_completion_tokens"),
}
COMPLETION: dict[str, tuple[str, Any, str, str]] = {
    "prompt-empty": ("prompt", "", "invalid_type", "prompt"),
    "prompt-nul": ("prompt", ["x", "a\0"], "invalid_value", "prompt"),
    "prompt-surrogate": ("prompt", "\ud800", "invalid_value", "prompt"),
    "prompt-mixed": ("prompt", ["x", 1], "invalid_type", "prompt"),
    "prompt-mixed-ids": ("prompt", [1, "x"], "invalid_type", "prompt"),
    "prompt-id-negative": ("prompt", [-1], "invalid_type", "prompt"),
    "prompt-id-huge": ("prompt", [10**400], "invalid_type", "prompt"),
    "prompt-id-nan": ("prompt", [float("nan")], "invalid_type", "prompt"),
    "prompt-id-half": ("prompt", [[1.5]], "invalid_type", "prompt"),
    "prompt-id-true": ("prompt", [True], "invalid_type", "prompt"),
    "prompt-deep": ("prompt", [[[1]]], "invalid_type", "prompt"),
    "prompts-none": ("prompt", [[]], "invalid_type", "prompt"),
    "prompts-many": ("prompt", ["x"] * 65, "invalid_value", "prompt"),
    "logprobs": ("logprobs", 6, "invalid_value", "logprobs"),
    "suffix": ("suffix", "x", "unsupported_parameter", "suffix"),
}


def send(url: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    answer = httpx.post(f"{url}/v1/{path}", content=body, headers=JSON)
    assert answer.headers["content-type"] == "application/json", answer.text[:200]
    # It never gives the input back.
    assert len(answer.content) < 2000
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return answer.status_code, error


@pytest.mark.parametrize("path", MINIMAL)
@pytest.mark.parametrize("case", RAW)
def test_a_bad_body(url: str, path: str, case: str) -> None:
    body, status, code, param = RAW[case]
    found, error = send(url, path, body)
    assert (found, error["code"], error["param"]) == (status, code, param), error


@pytest.mark.parametrize("path", MINIMAL)
@pytest.mark.parametrize("case", FIELDS)
def test_a_bad_field(url: str, path: str, case: str) -> None:
    name, value, status, code, param = FIELDS[case]
    found, error = send(url, path, json.dumps({**MINIMAL[path], name: value}).encode())
    assert (found, error["code"], error["param"]) == (status, code, param), error


@pytest.mark.parametrize(
    ("path", "case"),
    [("chat/completions", case) for case in CHAT] + [("completions", case) for case in COMPLETION],
)
def test_a_bad_field_of_one_endpoint(url: str, path: str, case: str) -> None:
    name, value, code, param = (CHAT if path.startswith("chat") else COMPLETION)[case]
    found, error = send(url, path, json.dumps({**MINIMAL[path], name: value}).encode())
    assert (found, error["code"], error["param"]) == (400, code, param), error


def test_what_is_no_object_is_told_so(url: str) -> None:
    for body in (b"[]", b"null", b'"x"'):
        assert send(url, "completions", body)[1]["message"] == "It must be a JSON object."
    body = json.dumps({"model": MODEL, "messages": ["x"]}).encode()
    error = send(url, "chat/completions", body)[1]
    assert error["message"] == "messages[0]: It must be a JSON object."


def test_too_many_choices_for_all_prompts(url: str) -> None:
    body = {**MINIMAL["completions"], "prompt": ["x"] * 33, "n": 2}
    found, error = send(url, "completions", json.dumps(body).encode())
    assert (found, error["code"], error["param"]) == (400, "invalid_value", "n")


@pytest.mark.parametrize("key", ["", "a b", "é".encode(), "x" * 256])
def test_a_bad_idempotency_key(url: str, key: Any) -> None:
    answer = httpx.post(
        f"{url}/v1/completions",
        json=MINIMAL["completions"],
        headers={"Idempotency-Key": key},
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")


@pytest.mark.parametrize("name", ["%00", "..%2f..%2fx", "a" * 5000, "\u2028", "%ff"])
def test_a_bad_models_name(url: str, name: str) -> None:
    answer = httpx.get(f"{url}/v1/models/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"model_not_found", "not_found"}
