"""The OpenAPI document: every status an operation can answer, as problem documents have it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias, get_args

from fastapi import FastAPI

from api.gate import METRICS
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
    "too_many_in_flight",
    "queue_full",
    "redis_unavailable",
    "stopping",
)
"""Codes of whatever can keep a job from being submitted."""

_REFERENCE: Final = "#/components/schemas/{model}"


Responses: TypeAlias = dict[int | str, dict[str, Any]]


def problems(*codes: str) -> Responses:
    """`responses` of an operation that can answer these codes."""
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[STATUS[code]].append(code)
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{c}`" for c in found),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": _REFERENCE.format(model=Problem.__name__)},
                    "examples": {code: {"value": _example(code)} for code in found},
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
        problem = Problem.model_json_schema(ref_template=_REFERENCE)
        schemas |= problem.pop("$defs") | {Problem.__name__: problem}
        body = schemas[GenerateBody.__name__]["properties"]
        body["max_tokens"]["anyOf"][0]["maximum"] = settings.max_tokens
        body["ttl"]["anyOf"][0]["maximum"] = settings.queue_ttl
        if settings.metrics_port:
            del document["paths"][METRICS]
        _drop_framework_errors(document)
        return document

    app.openapi = finished  # type: ignore[method-assign]  # the framework's documented way


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
        "detail": GENERAL.get(code) or _meanings(MiniVaultError)[code],
        "code": code,
    }
