"""The docs' table of fields, walked against the SDK's types and against a real server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import (
    ChatCompletionMessageParam,
    ChatCompletionStreamOptionsParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)

from api.openai.chat_body import ChatBody, ChatMessage
from api.openai.completion_body import CompletionBody
from shared.redis import connect
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.field_table import Samples, assert_holds, published, rows
from tests.support.scripted_worker import scripted_worker, words

DOCUMENT = "openai.md"
CHAT, MESSAGES, COMPLETIONS = (
    "POST /v1/chat/completions",
    "Messages of a chat completion",
    "POST /v1/completions",
)
OURS = {"top_k", "min_p", "repetition_penalty", "background", "priority", "ttl"}
"""Fields that OpenAI does not have; the text names them."""
MODEL = "smollm2-135m"
TURN = {"role": "user", "content": "x"}
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": [TURN]},
    COMPLETIONS: {"model": MODEL, "prompt": "x"},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
FUNCTION = {"name": "f", "parameters": {}}


def some(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def taken(name: str, *values: Any) -> Samples:
    return Samples(taken=some(name, None, *values))


def refused(name: str, *values: Any, neutral: tuple[Any, ...] = ()) -> Samples:
    return Samples(taken=some(name, None, *neutral), refused=some(name, *values))


def of_stream(name: str) -> Samples:
    field = name.partition(".")[2]
    return Samples(
        taken=[{"stream": True, "stream_options": {field: value}} for value in (True, False, None)],
        refused=[{"stream": True, "stream_options": {field: 1}}],
    )


SHARED: dict[str, Samples] = {
    "model": Samples(taken=some("model", MODEL), refused=some("model", 1, None)),
    "max_tokens": Samples(taken=some("max_tokens", 1, 1024), refused=some("max_tokens", 0, 1025)),
    "temperature": Samples(taken=some("temperature", 0, 2), refused=some("temperature", -1, 2.1)),
    "top_p": Samples(taken=some("top_p", 0.1, 1), refused=some("top_p", 0, 1.1)),
    "presence_penalty": Samples(
        taken=some("presence_penalty", -2, 2), refused=some("presence_penalty", 2.1, "1")
    ),
    "frequency_penalty": Samples(
        taken=some("frequency_penalty", -2, 2), refused=some("frequency_penalty", -2.1, True)
    ),
    "logit_bias": Samples(
        taken=some("logit_bias", {}, {"50": -100, "7": 1.5}),
        refused=some("logit_bias", {"x": 1}, {"-1": 1}, {"1": 101}, {"1": True}, [1]),
    ),
    "seed": Samples(
        taken=some("seed", 0, -(2**63), 2**63 - 1), refused=some("seed", 2**63, 1.5, "1")
    ),
    "stop": Samples(
        taken=some("stop", None, "x", ["x", "y"], []), refused=some("stop", 5, ["x"] * 9)
    ),
    "n": Samples(taken=some("n", 1, 3), refused=some("n", 0, 65)),
    "stream": Samples(taken=some("stream", None, True, False), refused=some("stream", "yes")),
    "stream_options": Samples(
        taken=[{"stream_options": None}, {"stream": True, "stream_options": {}}],
        refused=some("stream_options", {"include_usage": True}),
    ),
    "stream_options.include_usage": of_stream("stream_options.include_usage"),
    "stream_options.include_obfuscation": of_stream("stream_options.include_obfuscation"),
    "user": taken("user", "somebody"),
}

SAMPLES: dict[str, dict[str, Samples]] = {
    CHAT: SHARED
    | {
        "messages": Samples(taken=some("messages", [TURN]), refused=some("messages", [], "x")),
        "max_completion_tokens": Samples(
            taken=some("max_completion_tokens", 1, 1024),
            refused=some("max_completion_tokens", 0, 1025),
        ),
        "response_format": Samples(
            taken=some("response_format", {"type": "text"}, {"type": "json_object"}, SCHEMA),
            refused=some("response_format", "text", {"type": "json_schema"}),
        ),
        "logprobs": Samples(taken=some("logprobs", True, False), refused=some("logprobs", 1)),
        "top_logprobs": Samples(
            taken=[{"logprobs": True, "top_logprobs": 20}, {"top_logprobs": None}],
            refused=[{"top_logprobs": 1}, {"logprobs": True, "top_logprobs": 21}],
        ),
        "safety_identifier": taken("safety_identifier", "somebody"),
        "metadata": taken("metadata", {"a": "b"}),
        "prompt_cache_key": taken("prompt_cache_key", "x"),
        "prompt_cache_options": taken("prompt_cache_options", {"mode": "explicit", "ttl": "30m"}),
        "prompt_cache_retention": taken("prompt_cache_retention", "24h"),
        "parallel_tool_calls": taken("parallel_tool_calls", True, False),
        "service_tier": refused(
            "service_tier", "flex", "scale", "priority", "fast", neutral=("auto", "default")
        ),
        "store": refused("store", True, neutral=(False,)),
        "verbosity": refused("verbosity", "low", "high", neutral=("medium",)),
        "reasoning_effort": refused(
            "reasoning_effort", "minimal", "low", "medium", "high", neutral=("none",)
        ),
        "modalities": refused("modalities", ["text", "audio"], ["audio"], neutral=(["text"],)),
        "tools": refused("tools", [{"type": "function", "function": FUNCTION}], neutral=([],)),
        "tool_choice": refused("tool_choice", "required", neutral=("none", "auto")),
        "functions": refused("functions", [FUNCTION], neutral=([],)),
        "function_call": refused("function_call", {"name": "f"}, neutral=("none", "auto")),
        "audio": refused("audio", {"voice": "alloy", "format": "wav"}),
        "moderation": refused("moderation", {"model": "omni-moderation-latest"}),
        "prediction": refused("prediction", {"type": "content", "content": "x"}),
        "web_search_options": refused("web_search_options", {}),
    },
    COMPLETIONS: SHARED
    | {
        "prompt": Samples(
            taken=some("prompt", "x", ["x", "y"], [1, 2], [[1], [2]]),
            refused=some("prompt", "", None, [], [[]], ["x", 1], [-1], 5, [[1], "x"]),
        ),
        "best_of": refused("best_of", 2, 0, neutral=(1,)),
        "echo": Samples(
            taken=some("echo", True, False),
            refused=[{"echo": True, "logprobs": 1}, {"echo": True, "prompt": [1]}],
        ),
        "logprobs": Samples(taken=some("logprobs", 0, 5), refused=some("logprobs", 6, True)),
        "suffix": refused("suffix", "x", neutral=("",)),
    },
}


def a_message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x", **fields}]}


PARTS = [
    {"type": "image_url", "image_url": {"url": "http://localhost/x.png"}},
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "file", "file": {"file_id": "x"}},
    {"type": "refusal", "refusal": "no"},
]
MESSAGE_SAMPLES: dict[str, Samples] = {
    "role": Samples(
        taken=[a_message(role=role) for role in ("system", "developer", "user", "assistant")],
        refused=[a_message(role=role) for role in ("tool", "function", "nobody", None)],
    ),
    "content": Samples(
        taken=[
            a_message(content="x"),
            a_message(content=[{"type": "text", "text": "x"}]),
            a_message(
                content=[
                    {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
                ]
            ),
        ],
        refused=[a_message(content=[part]) for part in PARTS] + [a_message(content=None)],
    ),
    "annotations": Samples(taken=[a_message(annotations=[]), a_message(annotations=None)]),
    "name": Samples(refused=[a_message(name="bob")]),
    "refusal": Samples(refused=[a_message(role="assistant", refusal="no")]),
    "audio": Samples(refused=[a_message(role="assistant", audio={"id": "x"})]),
    "tool_calls": Samples(refused=[a_message(role="assistant", tool_calls=[{"id": "x"}])]),
    "tool_call_id": Samples(refused=[a_message(tool_call_id="x")]),
    "function_call": Samples(refused=[a_message(role="assistant", function_call=FUNCTION)]),
}


@pytest.fixture(scope="module")
def url(session_settings: Settings) -> Iterator[str]:
    with connect(session_settings, "test") as redis:
        redis.flushall()
        with (
            scripted_worker(redis, session_settings.default_model, words("at", " once")),
            running_api(session_settings) as url,
        ):
            yield url


def test_the_tables_have_every_published_field_and_every_one_of_the_bodies() -> None:
    options = {f"stream_options.{name}" for name in published(ChatCompletionStreamOptionsParam)}
    chat = published(chat_create_params.CompletionCreateParams) | options
    completion = published(completion_create_params.CompletionCreateParams) | options
    messages = published(ChatCompletionMessageParam) | {"annotations"}  # which answers have
    assert len(chat) > 35
    assert set(rows(DOCUMENT, CHAT)) == chat
    assert set(rows(DOCUMENT, COMPLETIONS)) == completion
    assert set(rows(DOCUMENT, MESSAGES)) == messages
    assert set(ChatBody.model_fields) == chat - options | OURS
    assert set(CompletionBody.model_fields) == completion - options | OURS
    assert set(ChatMessage.model_fields) == messages


@pytest.mark.parametrize(
    ("endpoint", "name", "status"),
    [
        (endpoint, name, status)
        for endpoint in (CHAT, COMPLETIONS)
        for name, status in rows(DOCUMENT, endpoint).items()
    ],
)
def test_a_field_is_as_the_table_says(url: str, endpoint: str, name: str, status: str) -> None:
    path = endpoint.removeprefix("POST ")
    assert_holds(url + path, MINIMAL[endpoint], name, status, SAMPLES[endpoint][name])


@pytest.mark.parametrize(("name", "status"), rows(DOCUMENT, MESSAGES).items())
def test_a_messages_field_is_as_the_table_says(url: str, name: str, status: str) -> None:
    samples = MESSAGE_SAMPLES[name]
    named = Samples(samples.taken, samples.refused, param=f"messages[0].{name}")
    assert_holds(f"{url}/v1/chat/completions", MINIMAL[CHAT], name, status, named)


def test_no_sample_is_left_over() -> None:
    assert {endpoint: set(SAMPLES[endpoint]) for endpoint in SAMPLES} == {
        endpoint: set(rows(DOCUMENT, endpoint)) for endpoint in SAMPLES
    }
    assert set(MESSAGE_SAMPLES) == set(rows(DOCUMENT, MESSAGES))
    assert json.dumps(SAMPLES, default=vars)  # all of it can be sent
