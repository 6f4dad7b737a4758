"""Errors that only the HTTP API knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.errors import (
    GenerationError,
    InvalidPromptError,
    MiniVaultError,
    ModelUnavailableError,
    NoChatTemplateError,
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


class NotAcceptableError(MiniVaultError):
    """This resource is served as text/event-stream or text/plain; `Accept` allows neither."""

    code = "not_acceptable"


class PriorityNotAllowedError(MiniVaultError):
    """The priority is higher than this service allows."""

    code = "priority_not_allowed"


class InteractionNotFoundError(MiniVaultError):
    """There is no such interaction, or no longer."""

    code = "interaction_not_found"


class DeletionTooWideError(MiniVaultError):
    """This would delete everybody's interactions. Say which: `key`, `until` or both."""

    code = "deletion_too_wide"


class NoWorkerError(MiniVaultError):
    """No live worker serves the default model."""

    code = "no_worker"


class StoppingError(MiniVaultError):
    """This process is stopping; the job goes on and can be followed under its id."""

    code = "stopping"


_OF_JOBS: Final[Mapping[str, type[MiniVaultError]]] = {
    kind.code: kind
    for kind in (
        InvalidPromptError,
        ModelUnavailableError,
        NoChatTemplateError,
        PromptTooLongError,
        UnknownModelError,
        WaitedTooLongError,
        WorkerLostError,
    )
}


def failure(event: Failed) -> MiniVaultError:
    """The error that a failed job means for whoever waits for its response."""
    return _OF_JOBS.get(event.code, GenerationError)(event.message)
