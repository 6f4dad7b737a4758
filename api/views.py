"""What clients get back."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shared.events import FinishReason, Logprob, TokenLogprobs


class _View(BaseModel):
    """Read from msgspec structs by attribute."""

    model_config = ConfigDict(from_attributes=True)


class UsageView(_View):
    """Token counts. A client that counts events counts wrong: one event may carry several."""

    prompt_tokens: int = Field(examples=[37])
    completion_tokens: int = Field(examples=[8])
    cached_tokens: int = Field(
        description="Of the prompt's, those that did not have to be computed again.", examples=[0]
    )
    total_tokens: int = Field(examples=[45])


class TimingsView(_View):
    """Seconds: waiting, then until the first token, then until the last; and altogether."""

    queue: float = Field(examples=[0.004])
    prefill: float = Field(examples=[0.06])
    decode: float = Field(examples=[0.21])
    total: float = Field(examples=[0.274])


class LogprobView(_View):
    """A token and its log probability, by the model alone: before penalties and temperature."""

    id: int = Field(description="The token's id, as `logit_bias` takes it.", examples=[504])
    text: str = Field(
        description="As far as its bytes are whole characters; a `\ufffd` for others.",
        examples=["The"],
    )
    bytes: list[int] = Field(description="What the token stands for.", examples=[[84, 104, 101]])
    logprob: float = Field(examples=[-0.0412])

    @classmethod
    def of(cls, told: Logprob) -> Self:
        return cls(
            id=told.id,
            text=told.raw.decode("utf-8", "replace"),
            bytes=list(told.raw),
            logprob=told.logprob,
        )


class TokenLogprobsView(LogprobView):
    """The token that was drawn, and the likeliest ones in its place."""

    top: list[LogprobView]

    @classmethod
    def of_token(cls, told: TokenLogprobs) -> Self:
        drawn = LogprobView.of(told.drawn)
        return cls(**dict(drawn), top=[LogprobView.of(each) for each in told.top])


Logprobs = Annotated[
    list[TokenLogprobsView] | None,
    Field(
        description="One for each token, if they were asked for.",
        exclude_if=lambda logprobs: logprobs is None,
    ),
]


class GenerateView(_View):
    id: str = Field(examples=["job-0123456789abcdef0123456789abcdef"])
    model: str = Field(examples=["smollm2-135m"])
    response: str = Field(examples=["The capital of England is London."])
    logprobs: Logprobs = None
    finish_reason: FinishReason
    usage: UsageView
    timings: TimingsView


class FailureView(_View):
    code: str = Field(examples=["prompt_too_long"])
    message: str


class JobView(_View):
    id: str = Field(examples=["job-0123456789abcdef0123456789abcdef"])
    model: str = Field(examples=["smollm2-135m"])
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    response: str = Field(
        description="So far, or whole once the status is `done`.",
        examples=["The capital of England is London."],
    )
    logprobs: Logprobs = None
    finish_reason: FinishReason | None
    usage: UsageView | None
    timings: TimingsView | None
    error: FailureView | None


class InteractionView(_View):
    """A finished job. Times of day are ISO 8601 in UTC, durations seconds."""

    id: str = Field(examples=["job-0123456789abcdef0123456789abcdef"])
    request_id: str
    client: str = Field(description="Address, or network, that it came from.")
    key: str = Field(description="Id of the API key that it came with; empty: none.")
    model: str = Field(examples=["smollm2-135m"])
    prompt: str
    response: str = Field(description="What the client received.")
    parameters: Annotated[dict[str, Any], BeforeValidator(json.loads)]
    status: Literal["done", "failed", "cancelled"]
    finish_reason: FinishReason
    error: str | None = Field(description="Code of what made it fail.")
    attempts: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    created_at: str = Field(examples=["2026-11-25T09:30:00.123+00:00"])
    finished_at: str


class InteractionsView(BaseModel):
    interactions: list[InteractionView]
    next: str | None = Field(description="`cursor` of the following page; null: this is the last.")


class DeletedView(BaseModel):
    deleted: int = Field(description="Interactions.", examples=[1])


class UsageDayView(_View):
    day: str = Field(description="In UTC.", examples=["2026-11-25"])
    key: str = Field(description="Id of the API key; empty: none.")
    model: str = Field(examples=["smollm2-135m"])
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class UsagesView(BaseModel):
    usage: list[UsageDayView]
    next: str | None = Field(description="`cursor` of the following page; null: this is the last.")


class ModelView(BaseModel):
    name: str = Field(examples=["smollm2-135m"])
    default: bool = Field(description="Serves requests that name no model.")
    served: bool = Field(description="Requests may name it. Others are in the catalog alone.")
    ready: bool = Field(description="It is on the machine of a live worker.")
    loaded: bool = Field(description="A live worker has it in memory.")
    workers: list[str] = Field(description="Those that have it in memory.")
    loading: bool = Field(description="It is about to be in a worker's memory.")
    pinned: bool = Field(description="Every worker keeps it in memory.")
    bytes: int = Field(description="On disk; 0: it is not there.", examples=[540_000_000])
    memory: int = Field(
        description="Bytes that loading it takes; 0: not known.", examples=[704_000_000]
    )
    memory_full: int = Field(
        description="Bytes that it has taken once its KV cache is full.",
        examples=[3_700_000_000],
    )


class ModelsView(BaseModel):
    models: list[ModelView]


class HealthView(BaseModel):
    status: Literal["ok"] = "ok"


class FieldProblemView(BaseModel):
    field: str = Field(examples=["temperature"])
    message: str = Field(examples=["Input should be less than or equal to 2"])


class Problem(BaseModel):
    """An RFC 9457 problem document. Match on `code`; the other texts may change."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What went wrong this time.")
    code: str = Field(description="Stable name of what went wrong.")
    errors: list[FieldProblemView] | None = Field(
        None, description="For `invalid_request`: each field that can't be used."
    )
