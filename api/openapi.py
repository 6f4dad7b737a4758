"""The OpenAPI document: every status an operation can answer, as problem documents have it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias, get_args

import msgspec
from fastapi import FastAPI

from api.authentication import is_open
from api.gate import METRICS
from api.openai.answers import ChatCompletion, Completion
from api.openai.chat_body import ChatBody
from api.openai.completion_body import CompletionBody
from api.openai.errors import openai_error, openai_status, speaks_openai
from api.openai.responses.body import ResponseBody
from api.openai.views import OpenAIErrors
from api.problems import GENERAL, MEDIA_TYPE, STATUS
from api.schemas import GenerateBody
from api.views import Problem
from shared.errors import MiniVaultError
from shared.events import AnyEvent
from shared.settings import Settings

JOB_ID: Final = "job-0123456789abcdef0123456789abcdef"

EVENT_STREAM_CONTENT: Final[Mapping[str, Any]] = {
    # Each event, not the stream, as OpenAPI 3.2 and FastAPI's own streams have it.
    "itemSchema": {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "id": {"type": "string", "description": "Its number. What the log lacks has none."},
            "event": {"enum": [kind.__struct_config__.tag for kind in get_args(AnyEvent)]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    },
    "example": f'id: 1\nevent: queued\ndata: {{"id":"{JOB_ID}","model":"smollm2-135m",'
    '"position":0,"request_id":"4f1c07d2a8be6c35"}\n\n'
    'id: 2\nevent: started\ndata: {"prompt_tokens":37}\n\n'
    'id: 3\nevent: token\ndata: {"text":"The capital"}\n\n',
}

ADMISSION_PROBLEMS: Final = (
    "invalid_grammar",
    "invalid_json",
    "priority_not_allowed",
    "webhook_not_allowed",
    "unknown_model",
    "request_timeout",
    "idempotency_conflict",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "rate_limited",
    "daily_tokens_exhausted",
    "too_many_in_flight",
    "queue_full",
    "redis_unavailable",
    "stopping",
)
"""Codes of whatever can keep a job from being submitted."""

_KEY_PROBLEMS: Final = (
    "ambiguous_api_key",
    "missing_api_key",
    "invalid_api_key",
    "rate_limited",
    "store_unavailable",
)
"""Codes of whatever can keep a request out that needs a key."""

_REFERENCE: Final = "#/components/schemas/{model}"


Responses: TypeAlias = dict[int | str, dict[str, Any]]


def problems(*codes: str) -> Responses:
    """`responses` of an operation that can answer these codes."""
    by_status: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for code in codes:
        by_status[STATUS[code]][code] = _example(code)
    return _by_status(by_status, MEDIA_TYPE, Problem.__name__)


def openai_errors(path: str, *codes: str) -> Responses:
    """As `problems`, for an operation under `/v1`; the codes are ours."""
    by_status: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for code in codes:
        example = openai_error(code, _meaning(code), STATUS[code], path=path)
        by_status[openai_status(STATUS[code])][example["error"]["code"]] = example
    return _by_status(by_status, "application/json", OpenAIErrors.__name__)


def reference(model: str) -> dict[str, str]:
    """To a schema of the finished document."""
    return {"$ref": _REFERENCE.format(model=model)}


def _by_status(
    by_status: Mapping[int, Mapping[str, Any]], media_type: str, model: str
) -> Responses:
    """The inner mappings are of codes to examples."""
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{c}`" for c in found),
            "content": {
                media_type: {
                    "schema": reference(model),
                    "examples": {code: {"value": example} for code, example in found.items()},
                }
            },
        }
        for status, found in by_status.items()
    }


def install(app: FastAPI, settings: Settings) -> None:
    """Have `app.openapi()` return the finished document."""
    generated = app.openapi

    def finished() -> dict[str, Any]:
        document = generated()
        schemas = document["components"]["schemas"]
        for model in (Problem, OpenAIErrors):
            schema = model.model_json_schema(ref_template=_REFERENCE)
            schemas |= schema.pop("$defs") | {model.__name__: schema}
        _, answers = msgspec.json.schema_components(
            (ChatCompletion, Completion), ref_template=_REFERENCE.replace("{model}", "{name}")
        )
        schemas |= answers
        for body in (GenerateBody, ChatBody, CompletionBody, ResponseBody):
            _bound(schemas[body.__name__]["properties"], settings)
        if settings.metrics_port:
            del document["paths"][METRICS]
        _drop_framework_errors(document)
        _tell_of_keys(document)
        return document

    app.openapi = finished  # type: ignore[method-assign]  # the framework's documented way


def _tell_of_keys(document: dict[str, Any]) -> None:
    """Keys come in two ways, and may not be needed at all."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as `mv-...`."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        if is_open(path):
            continue
        for operation in operations.values():
            operation["security"] = [{}, {"bearer": []}, {"header": []}]
            ours, theirs = problems(*_KEY_PROBLEMS), openai_errors(path, *_KEY_PROBLEMS)
            for status, answer in (theirs if speaks_openai(path) else ours).items():
                _add(operation["responses"], str(status), answer)


def _add(responses: dict[str, Any], status: str, answer: dict[str, Any]) -> None:
    """Its codes, where the operation answers others with the same status."""
    [(media_type, content)] = answer["content"].items()
    known = responses.setdefault(status, answer).get("content", {}).get(media_type)
    if known is None:
        return
    new = content["examples"]
    for code in new.keys() - known["examples"].keys():
        responses[status]["description"] += f", `{code}`"
        known["examples"][code] = new[code]


def _bound(properties: dict[str, Any], settings: Settings) -> None:
    bounds = {
        "max_tokens": settings.max_tokens,
        "max_completion_tokens": settings.max_tokens,
        "max_output_tokens": settings.max_tokens,
        "ttl": settings.queue_ttl,
    }
    for name in bounds.keys() & properties.keys():
        properties[name]["anyOf"][0]["maximum"] = bounds[name]


def _drop_framework_errors(document: dict[str, Any]) -> None:
    """FastAPI adds its own 422 to operations that have parameters, even if all are free text."""
    for operations in document["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _meanings(kind: type[MiniVaultError]) -> dict[str, str]:
    """What each code means: the docstring of its error."""
    found = {kind.code: (kind.__doc__ or "").strip()}
    for each in kind.__subclasses__():
        found |= _meanings(each)
    return found


def _example(code: str) -> dict[str, Any]:
    status = HTTPStatus(STATUS[code])
    return {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": _meaning(code),
        "code": code,
    }


def _meaning(code: str) -> str:
    return GENERAL.get(code) or _meanings(MiniVaultError)[code]
