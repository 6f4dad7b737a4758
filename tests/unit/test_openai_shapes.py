"""What OpenAI's protocols have in common: errors, refusals, contents, formats."""

import json
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from api.errors import FieldProblem
from api.openai.chat_body import ChatBody
from api.openai.completion_body import CompletionBody
from api.openai.content import TextContent
from api.openai.errors import openai_error, openai_status, speaks_openai
from api.openai.fields import STRICT, refused
from api.openai.formats import ChatFormat
from api.problems import STATUS, problem
from shared.job import Grammar, GrammarKind

PREVIOUS = "previous_response_id"


class Body(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    content: Annotated[str, TextContent()] = ""
    tools: Annotated[None, refused("No {tools} are called.", [])] = None
    tier: Annotated[None, refused("There is one tier.", "auto", 1)] = None
    response_format: ChatFormat | None = None


def wrong(**fields: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        Body(**fields)
    (error,) = caught.value.errors()
    return error["type"], error["msg"]


def test_whose_errors_a_path_has() -> None:
    assert all(map(speaks_openai, ("/v1", "/v1/", "/v1/x")))
    assert not any(map(speaks_openai, ("/v10", "/", "/V1", "/jobs/v1/")))


@pytest.mark.parametrize("code", STATUS)
def test_every_problem_has_openais_shape_under_v1(code: str) -> None:
    answer = problem(code, "What happened.").at("/v1/chat/completions")
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == (STATUS[code] in {429, 503})
    error = json.loads(bytes(answer.body))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] == "What happened."
    assert answer.status_code == (400 if STATUS[code] == 422 else STATUS[code])
    assert (error["type"] == "server_error") == (answer.status_code >= 500)


def test_a_field_is_named_as_openai_names_it() -> None:
    problems = [
        FieldProblem("messages.0.content.12", "Too blue", "string_type"),
        FieldProblem("x", "There is no such field.", "extra_forbidden"),
    ]
    answer = openai_error("invalid_request", "?", 422, path="/v1/completions", problems=problems)
    assert answer == {
        "error": {
            "message": "messages[0].content[12]: Too blue. x: There is no such field.",
            "type": "invalid_request_error",
            "param": "messages[0].content[12]",
            "code": "invalid_type",
        }
    }
    whole = [FieldProblem("body", "It must be a JSON object.", "model_type")]
    error = openai_error("invalid_request", "?", 422, path="/v1/completions", problems=whole)
    assert error["error"]["param"] is None


@pytest.mark.parametrize(
    ("code", "path", "shown", "param"),
    [
        ("prompt_too_long", "/v1/chat/completions", "context_length_exceeded", "messages"),
        ("prompt_too_long", "/v1/completions", "context_length_exceeded", "prompt"),
        ("unknown_model", "/v1/completions", "model_not_found", "model"),
        ("rate_limited", "/v1/models", "rate_limit_exceeded", None),
        ("queue_full", "/v1/completions", "queue_full", None),
        ("previous_response_not_found", "/v1/responses", "previous_response_not_found", PREVIOUS),
    ],
)
def test_well_known_codes(code: str, path: str, shown: str, param: str | None) -> None:
    error = openai_error(code, "x", STATUS[code], path=path)["error"]
    assert (error["code"], error["param"]) == (shown, param)
    assert openai_status(STATUS[code]) == STATUS[code]


def test_a_quota_that_is_used_up_has_a_type_of_its_own() -> None:
    error = openai_error("daily_tokens_exhausted", "x", 429, path="/v1/completions")["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")


def test_what_asks_for_nothing_is_not_refused() -> None:
    assert Body(tools=None, tier=None) == Body(tools=[], tier="auto") == Body(tier=1)  # type: ignore[arg-type]


def test_a_refusal_says_why() -> None:
    assert wrong(tools=[1]) == ("unsupported_parameter", "No {tools} are called.")
    assert wrong(tier="fast") == ("unsupported_value", "There is one tier.")
    assert wrong(tier=True)[0] == "unsupported_value"  # which is not 1


def test_parts_of_a_text_are_its_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n", "annotations": []}]
    assert Body(content=parts).content == "a\nb\n"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, "content_type"),
        (5, "content_type"),
        ([], "content_type"),
        ({}, "content_type"),
        ("a\0", "string_nul"),
        ("\ud800", "string_unicode"),
        (["x"], "part"),
        ([{"type": "input_text", "text": "x"}], "part"),
        ([{"type": ["text"], "text": "x"}], "part"),
        ([{"type": "text"}], "part"),
        ([{"type": "text", "text": 5}], "part"),
        ([{"type": "text", "text": "\ud800"}], "string_unicode"),
        ([{"type": "text", "text": "x", "colour": "red"}], "part"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "unsupported_value"),
        ([{"type": "input_audio"}], "unsupported_value"),
        ([{"type": "refusal", "refusal": "x"}], "unsupported_value"),
    ],
)
def test_a_content_that_is_no_text(content: Any, kind: str) -> None:
    assert wrong(content=content)[0] == kind


def test_formats_become_grammars() -> None:
    schema = {"type": "object"}
    named = {"name": "x", "schema": schema, "strict": True, "description": None}
    formats: list[Any] = [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": named},
    ]
    assert [ChatFormat(**each).grammar() for each in formats] == [
        None,
        Grammar(GrammarKind.JSON_OBJECT),
        Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}'),
    ]


@pytest.mark.parametrize(
    "format_",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "no blanks", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"x": float("nan")}}},
        {"type": "json_object", "json_schema": {"name": "x", "schema": {}}},
        {"type": "regex"},
    ],
)
def test_a_format_that_is_none(format_: Any) -> None:
    with pytest.raises(ValidationError):
        Body(response_format=format_)


@pytest.mark.parametrize(("depth", "fits"), [(100, True), (101, False), (5000, False)])
def test_a_schema_is_only_so_deep(depth: int, *, fits: bool) -> None:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        Body(response_format=form)  # type: ignore[arg-type]
    except ValidationError:
        assert not fits
    else:
        assert fits


def test_bounds_are_in_the_documents_own_words() -> None:
    """pydantic writes `ge` for bounds that stand outside a validator, which no reader knows."""
    document = json.dumps([ChatBody.model_json_schema(), CompletionBody.model_json_schema()])
    assert '"minimum": 1' in document
    assert not any(f'"{word}":' in document for word in ("ge", "gt", "le", "lt"))
