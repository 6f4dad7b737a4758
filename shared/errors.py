"""One tree of errors. The class docstring is the message, `code` is what clients match on."""

from __future__ import annotations

from typing import ClassVar


class MiniVaultError(Exception):
    """Something went wrong inside MiniVault."""

    code: ClassVar[str] = "internal_error"
    retry_after: int | None = None
    """Whole seconds after which another try may succeed, where that is known."""

    def __init__(self, detail: str | None = None) -> None:
        """`detail` replaces the class's general message with what happened this time."""
        super().__init__(detail or (type(self).__doc__ or "").strip())

    @property
    def detail(self) -> str:
        return str(self)


class SettingsError(MiniVaultError):
    """A setting is unknown or has a value that can't be used."""

    code = "bad_settings"


class DataDirError(MiniVaultError):
    """The data folder can't be used."""

    code = "data_dir_unusable"


class CatalogError(MiniVaultError):
    """The model catalog can't be read."""

    code = "bad_catalog"


class StackError(MiniVaultError):
    """A process of the stack can't be started."""

    code = "stack_failed"


class RedisUnavailableError(MiniVaultError):
    """Redis can't be reached."""

    code = "redis_unavailable"


class StoreError(MiniVaultError):
    """The interactions database can't be used."""

    code = "store_unavailable"


class StoreAwayError(StoreError):
    """The interactions database does not answer, or can't write now."""

    code = "store_away"


class KeyNotFoundError(MiniVaultError):
    """There is no such key."""

    code = "key_not_found"


class DecodeError(MiniVaultError):
    """Bytes from Redis are not a job or event of this version."""

    code = "undecodable"


class UnknownModelError(MiniVaultError):
    """The catalog has no model of that name."""

    code = "unknown_model"


class ModelUnavailableError(MiniVaultError):
    """The model can't be loaded."""

    code = "model_unavailable"


class ModelTooLargeError(ModelUnavailableError):
    """The model does not fit into the worker's memory."""

    code = "model_too_large"


class KernelsUnavailableError(MiniVaultError):
    """There are no compiled kernels for this CPU."""

    code = "kernels_unavailable"


class NoPlaceError(ModelUnavailableError):
    """Every place in the workers' memory is taken by a pinned model."""

    code = "no_place"


class PromptTooLongError(MiniVaultError):
    """The prompt has more tokens than this service accepts."""

    code = "prompt_too_long"


class InvalidPromptError(MiniVaultError):
    """The model can't read this prompt."""

    code = "invalid_prompt"


class InvalidGrammarError(MiniVaultError):
    """No response can be held to this grammar."""

    code = "invalid_grammar"


class InvalidLogitBiasError(MiniVaultError):
    """A token of `logit_bias` is none of the model's."""

    code = "invalid_logit_bias"


class NoChatTemplateError(MiniVaultError):
    """The model has no chat template, so it can't read a conversation; send it a prompt."""

    code = "no_chat_template"


class GenerationError(MiniVaultError):
    """Generation failed; the worker's log has the reason under the job's id."""

    code = "generation_failed"


class WorkerLostError(MiniVaultError):
    """The job's worker died three times as it ran the job; it is not tried again by itself."""

    code = "worker_lost"


class WaitedTooLongError(MiniVaultError):
    """The job waited longer for a worker than it may."""

    code = "expired"


class JobNotFoundError(MiniVaultError):
    """No such job."""

    code = "job_not_found"


class JobExpiredError(MiniVaultError):
    """The job ended, and its events have expired."""

    code = "job_expired"


class QueueFullError(MiniVaultError):
    """Too many jobs wait already."""

    code = "queue_full"


class TooManyInFlightError(MiniVaultError):
    """Too many of this client's jobs have not ended."""

    code = "too_many_in_flight"


class DailyTokensError(MiniVaultError):
    """This key's tokens for today are used up."""

    code = "daily_tokens_exhausted"


class JobNotOverError(MiniVaultError):
    """The job is about to end and can be deleted then; ask again."""

    code = "job_not_over"
    retry_after = 1


class IdempotencyConflictError(MiniVaultError):
    """This Idempotency-Key stands for another request."""

    code = "idempotency_conflict"


class RateLimitedError(MiniVaultError):
    """Too many requests."""

    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        """`retry_after` is in whole seconds, at least 1."""
        super().__init__(detail)
        self.retry_after = retry_after
