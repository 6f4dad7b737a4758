"""Errors that only the HTTP API knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.errors import (
    GenerationError,
    InvalidGrammarError,
    InvalidLogitBiasError,
    InvalidPromptError,
    MiniVaultError,
    ModelTooLargeError,
    ModelUnavailableError,
    NoChatTemplateError,
    NoPlaceError,
    PromptTooLongError,
    UnknownModelError,
    WaitedTooLongError,
    WorkerLostError,
)
from shared.events import Failed


class FieldProblem(msgspec.Struct, frozen=True):
    """What is wrong with one field. Never holds the value: it may be huge, or no text at all."""

    field: str
    message: str
    kind: str = ""
    """pydantic's name for it, or one of `api.openai.fields`."""


class InvalidRequestError(MiniVaultError):
    """The request has fields that can't be used."""

    code = "invalid_request"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__()
        self.problems = tuple(problems)


class UnsupportedMediaTypeError(MiniVaultError):
    """Send the body as application/json."""

    code = "unsupported_media_type"


class InvalidHttpError(MiniVaultError):
    """This is no HTTP that the service understands."""

    code = "invalid_http"


class HeaderTooLargeError(MiniVaultError):
    """The request's line and headers are larger than this service takes."""

    code = "header_too_large"


class UnknownHostError(MiniVaultError):
    """The service does not answer to this name. Its operator can set MINIVAULT_ALLOWED_HOSTS."""

    code = "unknown_host"


class TooManyConnectionsError(MiniVaultError):
    """This process has no room for one more connection."""

    code = "too_many_connections"


class MissingKeyError(MiniVaultError):
    """This service needs an API key: send it as `Authorization: Bearer <key>` or `X-API-Key`."""

    code = "missing_api_key"


class InvalidKeyError(MiniVaultError):
    """This is no valid API key: it is unknown, incomplete, revoked or expired."""

    code = "invalid_api_key"


class AmbiguousKeyError(MiniVaultError):
    """Send one API key, once: as `Authorization: Bearer <key>` or as `X-API-Key`."""

    code = "ambiguous_api_key"


class NotAcceptableError(MiniVaultError):
    """This resource is served as text/event-stream or text/plain; `Accept` allows neither."""

    code = "not_acceptable"


class PreviousResponseNotFoundError(MiniVaultError):
    """The previous response is not known, or has expired."""

    code = "previous_response_not_found"


class PriorityNotAllowedError(MiniVaultError):
    """The priority is higher than this service allows."""

    code = "priority_not_allowed"


class InteractionNotFoundError(MiniVaultError):
    """There is no such interaction, or no longer."""

    code = "interaction_not_found"


class WebhookNotAllowedError(MiniVaultError):
    """Webhooks may not go there."""

    code = "webhook_not_allowed"


class DeletionTooWideError(MiniVaultError):
    """This would delete everybody's interactions. Say which: `key`, `until` or both."""

    code = "deletion_too_wide"


class NoWorkerError(MiniVaultError):
    """No live worker serves the model."""

    code = "no_worker"


class JobCancelledError(MiniVaultError):
    """The job was cancelled before its response was complete."""

    code = "cancelled"


class StoppingError(MiniVaultError):
    """This process is stopping; the job goes on and can be followed under its id."""

    code = "stopping"


class AdminRequiredError(MiniVaultError):
    """Only an administrator may do this."""

    code = "admin_required"


class ModelPinnedError(MiniVaultError):
    """The model is pinned. Unpin it first."""

    code = "model_pinned"


class ModelInSettingsError(MiniVaultError):
    """The settings name the model; it can't be withdrawn at run time."""

    code = "model_in_settings"


_OF_JOBS: Final[Mapping[str, type[MiniVaultError]]] = {
    kind.code: kind
    for kind in (
        InvalidGrammarError,
        InvalidLogitBiasError,
        InvalidPromptError,
        ModelTooLargeError,
        ModelUnavailableError,
        NoChatTemplateError,
        NoPlaceError,
        PromptTooLongError,
        UnknownModelError,
        WaitedTooLongError,
        WorkerLostError,
    )
}


def failure(event: Failed) -> MiniVaultError:
    """The error that a failed job means for whoever waits for its response."""
    return refusal(event.code, event.message)


def refusal(
    code: str, message: str, otherwise: type[MiniVaultError] = GenerationError
) -> MiniVaultError:
    """The error that a worker means; `otherwise` where its code is none of those known here."""
    return _OF_JOBS.get(code, otherwise)(message)
