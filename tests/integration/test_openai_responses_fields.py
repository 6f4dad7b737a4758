"""The table of a response's fields, walked against the SDK's types and against a real server."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.responses import (
    EasyInputMessageParam,
    ResponseOutputMessageParam,
    ResponseTextConfigParam,
    response_create_params,
)
from openai.types.responses.response_input_param import Message

from api.openai.responses.body import ResponseBody, ResponseStreamOptions
from api.openai.responses.inputs import InputMessage
from api.openai.responses.text import TextConfig
from shared.redis import connect
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.field_table import Samples, assert_holds, published, rows
from tests.support.scripted_worker import scripted_worker, words

DOCUMENT = "responses.md"
BODY, MESSAGES = "POST /v1/responses", "Messages of a response's input"
OURS = {"top_k", "min_p", "repetition_penalty", "seed", "stop", "priority", "ttl"}
"""Fields that OpenAI does not have; the text names them."""
TURN = {"role": "user", "content": "x"}
SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}


def some(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def taken(name: str, *values: Any, wrong: tuple[Any, ...] = ()) -> Samples:
    return Samples(taken=some(name, None, *values), refused=some(name, *wrong))


def refused(name: str, *values: Any, neutral: tuple[Any, ...] = ()) -> Samples:
    return Samples(taken=some(name, None, *neutral), refused=some(name, *values))


def of_stream(*options: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"stream": True, "stream_options": each} for each in options]


SAMPLES: dict[str, Samples] = {
    "input": Samples(taken=some("input", "x", [TURN]), refused=some("input", None, 5, [])),
    "model": taken("model", "smollm2-135m", wrong=(5,)),
    "instructions": taken("instructions", "x", wrong=(5, "\0")),
    "previous_response_id": taken("previous_response_id", wrong=("x", 5)),
    "stream": taken("stream", True, False, wrong=("yes",)),
    "stream_options": Samples(
        taken=[{"stream_options": None}, *of_stream({})],
        refused=some("stream_options", {"include_obfuscation": True}),
    ),
    "stream_options.include_obfuscation": Samples(
        taken=of_stream(*({"include_obfuscation": value} for value in (True, False, None))),
        refused=of_stream({"include_obfuscation": 1}),
    ),
    "background": taken("background", True, False, wrong=(1,)),
    "store": Samples(
        taken=some("store", None, True, False), refused=[{"store": False, "background": True}]
    ),
    "max_output_tokens": taken("max_output_tokens", 1, 1024, wrong=(0, 1025)),
    "temperature": taken("temperature", 0, 2, wrong=(-1, 2.1)),
    "top_p": taken("top_p", 0.1, 1, wrong=(0, 1.1)),
    "text": taken("text", {}, wrong=("x",)),
    "text.format": Samples(
        taken=[
            {"text": {"format": each}}
            for each in ({"type": "text"}, {"type": "json_object"}, SCHEMA)
        ],
        refused=[{"text": {"format": each}} for each in ({"type": "xml"}, "text", None)],
    ),
    "text.verbosity": Samples(
        taken=[{"text": {"verbosity": each}} for each in (None, "medium")],
        refused=[{"text": {"verbosity": each}} for each in ("low", "high")],
    ),
    "include": Samples(taken=some("include", None, [], ["message.output_text.logprobs"])),
    "top_logprobs": taken("top_logprobs", 0, 20, wrong=(-1, 21)),
    "metadata": taken("metadata", {"a": "b"}, wrong=([],)),
    "user": taken("user", "somebody", wrong=(5,)),
    "safety_identifier": taken("safety_identifier", "somebody"),
    "prompt_cache_key": taken("prompt_cache_key", "x"),
    "prompt_cache_options": taken(
        "prompt_cache_options", {"mode": "explicit", "ttl": "12h"}, {"prewarm": False}
    ),
    "prompt_cache_retention": taken("prompt_cache_retention", "24h", "in_memory"),
    "parallel_tool_calls": taken("parallel_tool_calls", True, False),
    "tool_choice": taken("tool_choice", "none", "auto", wrong=("required", {"type": "shell"})),
    "truncation": taken("truncation", "disabled", wrong=("auto",)),
    "service_tier": taken("service_tier", "auto", "default", wrong=("flex", "priority", "fast")),
    "tools": refused("tools", [{"type": "web_search"}], neutral=([],)),
    "max_tool_calls": refused("max_tool_calls", 1),
    "reasoning": refused("reasoning", {"effort": "low"}, {}),
    "conversation": refused("conversation", "conv_x", {"id": "conv_x"}),
    "prompt": refused("prompt", {"id": "x"}),
    "context_management": refused("context_management", [{"type": "compaction"}], neutral=([],)),
    "background_options": refused("background_options", {"completion_window": "2h"}),
    "moderation": refused("moderation", {"model": "omni-moderation-latest"}),
    "image": refused("image", {"context_compression": "auto"}),
    "access_programs": refused("access_programs", {"cyber": "standard"}),
}

PARTS = [
    {"type": "input_image", "image_url": "http://localhost/x.png", "detail": "auto"},
    {"type": "input_file", "file_id": "x"},
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "refusal", "refusal": "no"},
]


def a_message(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "x", **fields}]}


MESSAGE_SAMPLES: dict[str, Samples] = {
    "role": Samples(
        taken=[a_message(role=role) for role in ("system", "developer", "user", "assistant")],
        refused=[a_message(role=role) for role in ("tool", "nobody", None)],
    ),
    "content": Samples(
        taken=[
            a_message(content="x"),
            a_message(content=[{"type": "input_text", "text": "x"}]),
            a_message(
                role="assistant", content=[{"type": "output_text", "text": "x", "annotations": []}]
            ),
        ],
        refused=[a_message(content=[part]) for part in PARTS] + [a_message(content=None)],
    ),
    "type": Samples(taken=[a_message(type="message")]),
    "id": Samples(taken=[a_message(id="msg_x")]),
    "status": Samples(taken=[a_message(status="completed")]),
    "phase": Samples(taken=[a_message(phase="final_answer")]),
}

WHOLE_ITEMS = [
    {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "x", "output": "y"},
    {"type": "item_reference", "id": "x"},
    {"type": "reasoning", "id": "x", "summary": []},
]


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
    options = {f"stream_options.{name}" for name in published(response_create_params.StreamOptions)}
    text = {f"text.{name}" for name in published(ResponseTextConfigParam)}
    fields = published(response_create_params.ResponseCreateParams)
    messages = published(EasyInputMessageParam, Message, ResponseOutputMessageParam)
    assert len(fields) > 30
    assert set(rows(DOCUMENT, BODY)) == fields | options | text
    assert set(rows(DOCUMENT, MESSAGES)) == messages
    assert set(ResponseBody.model_fields) == fields | OURS
    assert set(ResponseStreamOptions.model_fields) == published(
        response_create_params.StreamOptions
    )
    assert set(TextConfig.model_fields) == published(ResponseTextConfigParam)
    assert set(InputMessage.model_fields) == messages


@pytest.mark.parametrize(("name", "status"), rows(DOCUMENT, BODY).items())
def test_a_field_is_as_the_table_says(url: str, name: str, status: str) -> None:
    assert_holds(f"{url}/v1/responses", {"input": "x"}, name, status, SAMPLES[name])


@pytest.mark.parametrize(("name", "status"), rows(DOCUMENT, MESSAGES).items())
def test_a_messages_field_is_as_the_table_says(url: str, name: str, status: str) -> None:
    samples = MESSAGE_SAMPLES[name]
    named = Samples(samples.taken, samples.refused, param=f"input[0].{name}")
    assert_holds(f"{url}/v1/responses", {"input": "x"}, name, status, named)


def test_what_is_no_message_and_what_can_not_be_included_is_refused(url: str) -> None:
    path = f"{url}/v1/responses"
    items = Samples(taken=[{}], refused=[{"input": [item]} for item in WHOLE_ITEMS])
    assert_holds(path, {"input": "x"}, "input[0]", "refused", items)
    more = ["reasoning.encrypted_content"], ["file_search_call.results"]
    included = Samples(refused=some("include", *more))
    assert_holds(path, {"input": "x"}, "include[0]", "refused", included)
    for name, value in (("prewarm", True), ("comparison_response_id", "resp_x")):
        samples = Samples(refused=some("prompt_cache_options", {name: value}))
        assert_holds(path, {"input": "x"}, f"prompt_cache_options.{name}", "refused", samples)


def test_no_sample_is_left_over() -> None:
    assert set(SAMPLES) == set(rows(DOCUMENT, BODY))
    assert set(MESSAGE_SAMPLES) == set(rows(DOCUMENT, MESSAGES))
