"""Response formats, log probabilities and biases through the real API; hostile ones included."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from shared.settings import Settings
from tests.support.api import running_api, stream, text_of
from tests.support.workers import crew

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with running_api(session_settings) as url:
        yield url


def ask(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/jobs", json={"prompt": "x", **fields}, timeout=60)


def schema(document: Any) -> dict[str, Any]:
    return {"type": "json_schema", "schema": document}


def nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        document = {"items": document}
    return document


NODE = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
IMPOSSIBLE: dict[str, Any] = {
    "minimum above maximum": schema({"type": "integer", "minimum": 5, "maximum": 3}),
    "nothing to choose from": schema({"enum": []}),
    "never": schema({"properties": {"a": False}, "required": ["a"], "type": "object"}),
    "two types": schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "itself": schema({"$ref": "#"}),
    "each other": schema(
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    "without end": schema({"$defs": {"n": NODE}, "$ref": "#/$defs/n"}),
    "remote": schema({"$ref": "http://127.0.0.1:9/schema.json"}),
    "file": schema({"$ref": "file:///etc/passwd"}),
    "nowhere": schema({"$ref": "#/$defs/nothing"}),
    "not": schema({"not": {"type": "string"}}),
    "uniqueItems": schema({"type": "array", "uniqueItems": True}),
    "x-guidance": schema({"x-guidance": {"lenient": True}, "not": {}}),
    "no type": schema({"type": "strnig"}),
    "overlap": schema({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
    "unknown format": schema({"type": "string", "format": "iban"}),
    "huge number": schema({"type": "integer", "minimum": 10**400}),
    "lone surrogate": schema({"type": "object", "properties": {"\ud800": {}}}),
    "too large": schema({"enum": [f"value {i}" for i in range(9000)]}),
    "too many ways": schema(
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}}
    ),
    "exponential union": schema(
        {
            "allOf": [
                {"anyOf": [{"type": "object", "properties": {f"a{i}{j}": {}}} for j in range(3)]}
                for i in range(12)
            ]
        }
    ),
    "hours of work": schema(
        {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(20)]}
    ),
    "hours of arithmetic": schema({"type": "integer", "multipleOf": 999_983}),
    "lookahead": {"type": "regex", "pattern": "(?=a)b"},
    "backreference": {"type": "regex", "pattern": r"(a)\1"},
    "unclosed": {"type": "regex", "pattern": "("},
    "matches nothing": {"type": "regex", "pattern": r"[^\s\S]"},
    "a hundred thousand": {"type": "regex", "pattern": "a{100000}"},
    "a billion": {"type": "regex", "pattern": "a{1000000000}"},
    "nested repetition": {"type": "regex", "pattern": "(" * 20 + "a" + "){1,9}" * 20},
    "deep": {"type": "regex", "pattern": "(" * 1500 + "a" + ")" * 1500},
}
BADLY_FORMED: dict[str, Any] = {
    "no type": {},
    "unknown type": {"type": "xml"},
    "no schema": {"type": "json_schema"},
    "schema of another kind": schema([1]),
    "boolean schema": schema(True),
    "too deep": schema(nested(100)),
    "not a number": b'{"prompt":"x","response_format":{"type":"json_schema","schema":{"a":NaN}}}',
    "surplus": {"type": "text", "schema": {}},
    "no choices": {"type": "choice", "choices": []},
    "empty choice": {"type": "choice", "choices": ["a", ""]},
    "choice of numbers": {"type": "choice", "choices": [1]},
    "surrogate choice": b'{"prompt":"x","response_format":{"type":"choice","choices":["\\ud800"]}}',
    "long pattern": {"type": "regex", "pattern": "a" * 5000},
    "text": "json",
}
POSSIBLE: dict[str, Any] = {
    "text": {"type": "text"},
    "object": {"type": "json_object"},
    "anything": schema({}),
    "billion laughs": schema(
        {
            "$defs": {
                **{
                    f"d{i}": {
                        "type": "object",
                        "properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "ab"},
                        "required": ["a", "b"],
                    }
                    for i in range(40)
                },
                "d40": {"type": "integer"},
            },
            "$ref": "#/$defs/d0",
        }
    ),
    "exponential pattern": schema({"type": "string", "pattern": "^(a+)+$"}),
    "long chain": schema(
        {
            "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(1000)}
            | {"d1000": {"type": "null"}},
            "$ref": "#/$defs/d0",
        }
    ),
    "as pydantic writes it": schema(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "City",
            "description": "A city.",
            "type": "object",
            "properties": {
                "name": {"title": "Name", "type": "string", "examples": ["Paris"]},
                "mayor": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["name"],
        }
    ),
    "regex": {"type": "regex", "pattern": r"^[0-9]{4}-\d{2}$"},
    "choice": {"type": "choice", "choices": ['"', "\\", "\n", "🙂", "/", "a|b"]},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_nobody_could_write_is_refused_before_it_is_queued(
    url: str, redis: Redis, case: str
) -> None:
    began = time.monotonic()
    content = json.dumps({"prompt": "x", "response_format": IMPOSSIBLE[case]})
    response = httpx.post(f"{url}/generate", content=content, headers=JSON, timeout=60)
    document = response.json()
    assert (response.status_code, document["code"]) == (400, "invalid_grammar"), document
    assert len(document["detail"]) < 500
    assert time.monotonic() - began < 20  # two seconds of computing, on a busy machine
    assert not redis.keys("minivault:job:*")


@pytest.mark.parametrize("case", BADLY_FORMED)
def test_what_is_no_response_format_is_refused(url: str, case: str) -> None:
    body = BADLY_FORMED[case]
    if not isinstance(body, bytes):
        body = json.dumps({"prompt": "x", "response_format": body}).encode()
    response = httpx.post(f"{url}/generate", content=body, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("case", POSSIBLE)
def test_what_can_be_written_is_accepted(url: str, case: str) -> None:
    response = ask(url, response_format=POSSIBLE[case])
    assert response.status_code == 202, response.text


def test_the_api_answers_others_while_it_examines(url: str) -> None:
    """Three grammars that would take hours, one after the other, and everybody else meanwhile."""
    hostile = [
        schema({"type": "integer", "multipleOf": prime}) for prime in (999_979, 999_961, 999_959)
    ]
    with ThreadPoolExecutor(3) as others:
        answers = [others.submit(ask, url, response_format=each) for each in hostile]
        waits = []
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200
            waits.append(time.monotonic() - began)
        assert {answer.result().status_code for answer in answers} == {400}
    assert max(waits) < 3
    assert ask(url, response_format=schema({"type": "null"})).status_code == 202


def test_an_examiner_that_died_is_replaced(url: str) -> None:
    assert ask(url, response_format={"type": "regex", "pattern": "first"}).status_code == 202
    (examiner,) = (
        child for child in psutil.Process().children() if "api.grammar_process" in child.cmdline()
    )
    os.kill(examiner.pid, signal.SIGKILL)
    answers = [
        ask(url, response_format={"type": "regex", "pattern": f"second{i}"}).status_code
        for i in range(2)
    ]
    assert answers[1] == 202
    assert answers[0] in {202, 400}


def test_the_examiner_ends_with_its_api() -> None:
    examiner = subprocess.Popen(
        [sys.executable, "-m", "api.grammar_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert examiner.stdin
    assert examiner.stdout
    examiner.stdin.write(b'{"kind":"choice","value":"[]"}\n')
    examiner.stdin.flush()
    assert examiner.stdout.readline() == b'"There must be something to choose from."\n'
    examiner.communicate(timeout=20)
    assert examiner.returncode == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": float("nan")}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"05": 1}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"9" * 30: 1}),
        ("logit_bias", {str(i): 1 for i in range(301)}),
        ("logit_bias", [1]),
    ],
)
def test_numbers_out_of_range_are_refused(url: str, field: str, value: Any) -> None:
    body = json.dumps({"prompt": "x", field: value})
    response = httpx.post(f"{url}/generate", content=body, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_a_format_is_kept_from_the_api_to_the_engine_and_back(settings: Settings) -> None:
    """Through real processes, with the fake engine, which follows grammars in the shortest way."""
    with running_api(settings) as url, crew(settings) as workers:
        workers.start_one()
        body = {
            "prompt": "hi",
            "temperature": 0,
            "response_format": schema(
                {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
            ),
            "logprobs": 1,
        }
        whole = httpx.post(f"{url}/generate", json=body).json()
        assert (whole["response"], whole["finish_reason"]) == ('{"n": 0}', "stop")
        assert [each["text"] for each in whole["logprobs"]] == list('{"n": 0}')
        first = whole["logprobs"][0]
        assert first["bytes"] == list(b"{")
        assert first["top"] == [{name: first[name] for name in ("id", "text", "bytes", "logprob")}]
        events = stream(url, body)
        assert text_of(events) == '{"n": 0}'
        told = [each for event in events for each in event.data.get("logprobs", [])]
        assert told == whole["logprobs"]
        job = httpx.get(f"{url}/jobs/{whole['id']}").json()
        assert job["logprobs"] == whole["logprobs"]
        plain = httpx.post(f"{url}/generate", json={"prompt": "hi", "temperature": 0}).json()
        assert "logprobs" not in plain
