"""What clients get back."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.events import FinishReason


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


class GenerateView(_View):
    id: str = Field(examples=["job-0123456789abcdef0123456789abcdef"])
    model: str = Field(examples=["smollm2-135m"])
    response: str = Field(examples=["The capital of France is Paris."])
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
        examples=["The capital of France is Paris."],
    )
    finish_reason: FinishReason | None
    usage: UsageView | None
    timings: TimingsView | None
    error: FailureView | None


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
