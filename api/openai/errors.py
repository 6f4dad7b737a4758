"""Errors as OpenAI's clients know them, of everything under `/v1`. Pure.

The SDKs choose their exception by the status; `code` and `param` are for whoever handles it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from api.errors import FieldProblem

PREFIX: Final = "/v1"

_BAD_REQUEST: Final = 400
_STATUS: Final[Mapping[int, int]] = {422: _BAD_REQUEST}
"""OpenAI has one status for a body that can't be used."""

_CODES: Final[Mapping[str, str]] = {
    "daily_tokens_exhausted": "insufficient_quota",
    "prompt_too_long": "context_length_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "unknown_model": "model_not_found",
}
"""Where OpenAI has a well-known name for what we call otherwise."""

_KINDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
}
"""pydantic's names for what is wrong with a field, and OpenAI's."""

_PROMPTS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
}
_PARAMS: Final[Mapping[str, str]] = {
    "invalid_grammar": "response_format",
    "invalid_logit_bias": "logit_bias",
    "previous_response_not_found": "previous_response_id",
    "priority_not_allowed": "priority",
    "unknown_model": "model",
}
_PARAMS_AT: Final[Mapping[tuple[str, str], str]] = {
    ("invalid_grammar", "/v1/responses"): "text.format",
}
"""Where a path has a name of its own for what the others have in `_PARAMS`."""
_OF_PROMPTS: Final = {"invalid_prompt", "no_chat_template", "prompt_too_long"}

_TOLD: Final = 5
"""Problems that a message tells."""
_INDEX: Final = re.compile(r"\.(\d+)(?=\.|$)")


def speaks_openai(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def openai_status(status: int) -> int:
    return _STATUS.get(status, status)


def openai_error(
    code: str, detail: str, status: int, *, path: str, problems: Sequence[FieldProblem] = ()
) -> dict[str, Any]:
    """The document for a problem with our `code` and `status`."""
    param = _PARAMS_AT.get((code, path), _PARAMS.get(code))
    if code in _OF_PROMPTS:
        param = _PROMPTS.get(path)
    shown = _CODES.get(code, code)
    if problems:
        param, shown = _param(problems[0]), _code(problems[0])
        detail = " ".join(_told(each) for each in problems[:_TOLD])
    return {
        "error": {
            "message": detail,
            "type": _type(openai_status(status), shown),
            "param": param,
            "code": shown,
        }
    }


def _type(status: int, code: str) -> str:
    if status == 429:  # OpenAI's have the name of what there was too much of
        return code if code == "insufficient_quota" else "requests"
    return "server_error" if status >= 500 else "invalid_request_error"


def _code(problem: FieldProblem) -> str:
    if problem.kind.startswith("unsupported_"):
        return problem.kind
    if problem.kind.endswith("_type"):
        return "invalid_type"
    return _KINDS.get(problem.kind, "invalid_value")


def _param(problem: FieldProblem) -> str | None:
    """`messages[0].content`; None where it is the body as a whole."""
    return None if problem.field == "body" else _INDEX.sub(r"[\1]", problem.field)


def _told(problem: FieldProblem) -> str:
    param = _param(problem)
    message = problem.message if problem.message.endswith(".") else f"{problem.message}."
    return f"{param}: {message}" if param else message
