"""Every error leaves as an RFC 9457 problem document with a stable `code`.

Under `/v1` it leaves as OpenAI's clients expect it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from api.errors import FieldProblem, InvalidRequestError
from api.openai.errors import openai_error, openai_status, speaks_openai
from shared.errors import MiniVaultError, RedisUnavailableError
from shared.logging import get_logger

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = 2
"""Seconds, where nothing better is known: about what a supervised Redis or worker needs to be
back."""
CHALLENGE: Final = 'Bearer realm="minivault"'
_RETRIED: Final = {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
_MAX_ERRORS: Final = 20
_MAX_NAME: Final = 100

STATUS: Final[Mapping[str, int]] = {
    "ambiguous_api_key": 400,
    "invalid_grammar": 400,
    "invalid_http": 400,
    "invalid_json": 400,
    "invalid_logit_bias": 400,
    "invalid_prompt": 400,
    "no_chat_template": 400,
    "previous_response_not_found": 400,  # as OpenAI has it
    "prompt_too_long": 400,
    "invalid_api_key": 401,
    "missing_api_key": 401,
    "admin_required": 403,
    "deletion_too_wide": 403,
    "priority_not_allowed": 403,
    "webhook_not_allowed": 403,
    "interaction_not_found": 404,
    "job_not_found": 404,
    "not_found": 404,
    "unknown_model": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "idempotency_conflict": 409,
    "job_not_over": 409,
    "model_in_settings": 409,
    "model_pinned": 409,
    "cancelled": 410,  # a status that no client takes for a reason to ask again
    "job_expired": 410,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "unknown_host": 421,
    "invalid_request": 422,
    "daily_tokens_exhausted": 429,
    "rate_limited": 429,
    "too_many_in_flight": 429,
    "header_too_large": 431,
    "internal_error": 500,
    "generation_failed": 502,  # the worker's failure, not the API's
    "worker_lost": 502,
    "expired": 503,
    "model_unavailable": 503,
    "no_place": 503,
    "no_worker": 503,
    "queue_full": 503,
    "redis_unavailable": 503,
    "stopping": 503,
    "store_unavailable": 503,
    "too_many_connections": 503,
    "model_too_large": 507,
}
"""HTTP status of every code that a client can meet. A code that is not here is a bug: 500."""

GENERAL: Final[Mapping[str, str]] = {
    "invalid_json": "The body is not valid JSON.",
    "not_found": "There is nothing at this path.",
    "method_not_allowed": "This path has other methods; `Allow` names them.",
    "request_timeout": "The request did not come in in time.",
    "body_too_large": "The body is larger than this service takes.",
}
"""What is said of the errors that the framework raises; ours have a docstring."""

_CODE_OF_STATUS: Final[Mapping[int, str]] = {STATUS[code]: code for code in GENERAL}

_PLAIN_WORDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "There is no such field.",
    "missing": "This field is required.",
    "model_attributes_type": "It must be a JSON object.",
    "model_type": "It must be a JSON object.",
    "string_unicode": "Text must be Unicode without lone surrogates.",
}

log = get_logger()


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE

    def __init__(
        self,
        document: dict[str, Any],
        headers: Mapping[str, str] | None,
        errors: Sequence[FieldProblem],
    ) -> None:
        super().__init__(document, status_code=document["status"], headers=headers)
        self.code: str = document["code"]
        self._detail: str = document["detail"]
        self._given = headers
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["problem"] = self.code  # for whoever counts
        if speaks_openai(scope["path"]):
            await self.at(scope["path"])(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def at(self, path: str) -> JSONResponse:
        """The same, in the shape that errors have at this path."""
        if not speaks_openai(path):
            return self
        document = openai_error(
            self.code, self._detail, self.status_code, path=path, problems=self._errors
        )
        return JSONResponse(document, openai_status(self.status_code), self._given)


def problem(
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    status = STATUS.get(code, 500)
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        document["errors"] = [{"field": each.field, "message": each.message} for each in errors]
    if status in _RETRIED:
        headers = {"Retry-After": str(RETRY_AFTER), **(headers or {})}
    if status == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": CHALLENGE, **(headers or {})}
    return ProblemResponse(document, headers, errors)


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """`routes` are all that the app serves: where routers are included, it no longer knows."""

    async def other_method(request: Request, _: Exception) -> ProblemResponse:
        """The framework would name the methods of the first route with this path alone."""
        methods: set[str] = set()
        for route in routes:
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
                methods |= route.methods or set()
        code = "method_not_allowed"
        allow = ", ".join(sorted(methods)) or "GET, HEAD"  # else the docs page's files
        return problem(code, GENERAL[code], headers={"Allow": allow})

    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, other_method)
    app.add_exception_handler(MiniVaultError, _minivault_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RedisError, _redis_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)


def problem_of(error: MiniVaultError) -> ProblemResponse:
    errors = error.problems if isinstance(error, InvalidRequestError) else ()
    headers = None
    if error.retry_after is not None:
        headers = {"Retry-After": str(error.retry_after)}
    return problem(error.code, error.detail, errors=errors, headers=headers)


async def _minivault_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, MiniVaultError)
    return problem_of(error)


async def _validation_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        return problem("invalid_json", GENERAL["invalid_json"])
    errors = [_field_problem(each) for each in found[:_MAX_ERRORS]]
    return problem("invalid_request", InvalidRequestError(errors).detail, errors=errors)


async def _http_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, "internal_error")
    return problem(code, GENERAL.get(code, error.detail), headers=error.headers)


async def _redis_error(_: Request, error: Exception) -> ProblemResponse:
    log.error("Redis failed", error=str(error))
    return problem(RedisUnavailableError.code, RedisUnavailableError().detail)


async def _nobody_there(_: Request, __: Exception) -> Response:
    """Read by nobody; the status is for our own log line, as nginx writes it."""
    return Response(status_code=499)


def _field_problem(error: Mapping[str, Any]) -> FieldProblem:
    """Names the field and what it should have been; pydantic's `input` and `ctx` stay here."""
    kind, *path = error["loc"]
    name = ".".join(str(part) for part in path) or str(kind)
    # A name the client invented may be huge or hold lone surrogates.
    name = name.encode("utf-8", "backslashreplace").decode()[:_MAX_NAME]
    message = _PLAIN_WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    return FieldProblem(field=name, message=message, kind=error["type"])
