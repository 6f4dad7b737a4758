"""The objects of the Responses API, as clients get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from api.openai.logprobs import chat_logprobs
from shared.events import TokenLogprobs, Usage

Status: TypeAlias = Literal[
    "queued", "in_progress", "completed", "incomplete", "failed", "cancelled"
]
ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class TopLogprobView(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class LogprobView(TopLogprobView):
    top_logprobs: list[TopLogprobView]


class OutputTextView(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list, description="Always empty.")
    logprobs: list[LogprobView] = Field(default_factory=list)


class InputTextView(BaseModel):
    type: Literal["input_text"] = "input_text"
    text: str


class OutputMessageView(BaseModel):
    id: str = Field(examples=["msg_0123456789abcdef0123456789abcdef"])
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputTextView]


class InputMessageView(BaseModel):
    id: str = Field(examples=["msg_0123456789abcdef0123456789abcdef_0"])
    type: Literal["message"] = "message"
    role: Literal["user", "system"]
    status: ItemStatus = "completed"
    content: list[InputTextView]


class InputTokensDetailsView(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = Field(0, description="Always 0: nothing is charged for.")


class OutputTokensDetailsView(BaseModel):
    reasoning_tokens: int = Field(0, description="Always 0.")


class ResponseUsageView(BaseModel):
    input_tokens: int = Field(examples=[37])
    input_tokens_details: InputTokensDetailsView
    output_tokens: int = Field(examples=[8])
    output_tokens_details: OutputTokensDetailsView
    total_tokens: int = Field(examples=[45])


class ResponseErrorView(BaseModel):
    code: str = Field(description="`invalid_prompt` or `server_error`.", examples=["server_error"])
    message: str
    type: str = Field(description="The job's own code.", examples=["worker_lost"])


class IncompleteDetailsView(BaseModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ReasoningView(BaseModel):
    effort: None = None
    summary: None = None


class ResponseView(BaseModel):
    """A response, whole or as far as it has got."""

    id: str = Field(examples=["resp_0123456789abcdef0123456789abcdef"])
    object: Literal["response"] = "response"
    created_at: int = Field(description="Seconds since the epoch.")
    status: Status
    background: bool
    completed_at: int | None
    error: ResponseErrorView | None
    incomplete_details: IncompleteDetailsView | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    model: str = Field(examples=["smollm2-135m"])
    output: list[OutputMessageView] = Field(description="One message, once there is some of it.")
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningView = Field(default_factory=ReasoningView)
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: dict[str, Any] = Field(description="`format` as it was asked for.")
    tool_choice: str
    tools: list[Any] = Field(default_factory=list, description="Always empty.")
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsageView | None = Field(description="Once the response has ended.")
    user: str | None
    metadata: dict[str, str]


class DeletedResponse(BaseModel):
    id: str = Field(examples=["resp_0123456789abcdef0123456789abcdef"])
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItemsView(BaseModel):
    object: Literal["list"] = "list"
    data: list[InputMessageView | OutputMessageView]
    first_id: str | None
    last_id: str | None
    has_more: bool


def usage_view(usage: Usage) -> ResponseUsageView:
    return ResponseUsageView(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetailsView(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetailsView(),
        total_tokens=usage.total_tokens,
    )


def logprob_views(logprobs: Sequence[TokenLogprobs]) -> list[LogprobView]:
    found = chat_logprobs(logprobs).content
    return [LogprobView.model_validate(each, from_attributes=True) for each in found]
