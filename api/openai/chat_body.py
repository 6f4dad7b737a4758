"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from api.draft import Draft
from api.fields import MaxTokens, UpTo20
from api.openai.body import ONLY_STREAMS_HAVE_OPTIONS, Body, bounded
from api.openai.content import TextContent
from api.openai.fields import STRICT, refused, unsupported
from api.openai.formats import ChatFormat
from shared.job import Message
from shared.settings import Settings

_NO_TOOLS: Final = "No tools are called here."
_EXAMPLE: Final[JsonDict] = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "What is the capital of England?"}],
    "temperature": 0,
}
_TOP_NEEDS_LOGPROBS: Final[JsonDict] = {
    "anyOf": [
        {"properties": {"top_logprobs": {"type": "null"}}},
        {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]},
    ]
}
"""For readers of the schema, as `ONLY_STREAMS_HAVE_OPTIONS`."""


def _no_tools_role(role: object) -> object:
    if role in ("tool", "function"):
        raise unsupported(_NO_TOOLS)
    return role


class ChatMessage(BaseModel):
    """A turn as clients send it, also one that they were given as an answer."""

    model_config: ClassVar[ConfigDict] = STRICT

    role: Annotated[
        Literal["developer", "system", "user", "assistant"], BeforeValidator(_no_tools_role)
    ] = Field(description="`developer` is `system` to the model.")
    content: Annotated[str, TextContent()]
    name: Annotated[None, refused("Chat templates know no names.")] = None
    refusal: Annotated[None, refused("There are no refusals here.")] = None
    audio: Annotated[None, refused("There is no audio here.")] = None
    function_call: Annotated[None, refused(_NO_TOOLS)] = None
    tool_calls: Annotated[None, refused(_NO_TOOLS, [])] = None
    tool_call_id: Annotated[None, refused(_NO_TOOLS)] = None
    annotations: Annotated[None, refused("There are no annotations here.", [])] = None

    def message(self) -> Message:
        return Message("system" if self.role == "developer" else self.role, self.content)


_MetadataKey = Annotated[str, Field(max_length=64)]
_MetadataValue = Annotated[str, Field(max_length=512)]


class PromptCacheOptions(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    mode: Literal["implicit", "explicit"] | None = None
    ttl: str | None = None


class ChatBody(Body):
    """A conversation, and how to go on with it. `model` and `messages` are required."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [_EXAMPLE],
            "allOf": [ONLY_STREAMS_HAVE_OPTIONS, _TOP_NEEDS_LOGPROBS],
        }
    )

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: MaxTokens | None = Field(
        None, description="Absent: as many as the service allows."
    )
    max_tokens: MaxTokens | None = Field(
        None, description="The older name of the same. Of both, the lower holds."
    )
    response_format: ChatFormat | None = Field(
        None, description="What the response has to be. Absent: text."
    )
    logprobs: bool | None = Field(None, description="Tell each token's log probability.")
    top_logprobs: UpTo20 | None = Field(
        None, description="And those of the likeliest. Needs `logprobs`."
    )

    metadata: Annotated[dict[_MetadataKey, _MetadataValue], Field(max_length=16)] | None = Field(
        None, description="Ignored: it belongs to stored completions."
    )
    prompt_cache_key: str | None = Field(
        None, description="Ignored: prefixes are found by their text."
    )
    prompt_cache_options: PromptCacheOptions | None = Field(
        None, description="Ignored: what is cached does not change what is generated."
    )
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        None, description="Ignored, likewise."
    )
    safety_identifier: str | None = Field(None, description="Ignored: nobody is reported.")
    parallel_tool_calls: bool | None = Field(None, description="Ignored: there are no tools.")

    audio: Annotated[None, refused("Responses are text.")] = None
    function_call: Annotated[None, refused(_NO_TOOLS, "none", "auto")] = None
    functions: Annotated[None, refused(_NO_TOOLS, [])] = None
    modalities: Annotated[None, refused("Responses are text.", ["text"])] = None
    moderation: Annotated[None, refused("Nothing is moderated here.")] = None
    prediction: Annotated[None, refused("Nothing is predicted here.")] = None
    reasoning_effort: Annotated[None, refused("The models here do not reason.", "none")] = None
    service_tier: Annotated[None, refused("There is one tier.", "auto", "default")] = None
    store: Annotated[None, refused("Completions can't be fetched later; jobs can.", False)] = None
    tool_choice: Annotated[None, refused(_NO_TOOLS, "none", "auto")] = None
    tools: Annotated[None, refused(_NO_TOOLS, [])] = None
    verbosity: Annotated[None, refused("The models here have no such dial.", "medium")] = None
    web_search_options: Annotated[None, refused("Nothing is looked up in the web.")] = None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top is not None and not info.data.get("logprobs"):
            raise PydanticCustomError("top_logprobs", "It needs `logprobs` to be true.")
        return top

    def drafts(self, settings: Settings) -> list[Draft]:
        """A job for each choice."""
        max_tokens = bounded(
            {
                "max_completion_tokens": self.max_completion_tokens,
                "max_tokens": self.max_tokens,
            },
            settings.max_tokens,
            default=settings.max_tokens,
        )
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        grammar = self.response_format.grammar() if self.response_format else None
        messages, fingerprint = tuple(each.message() for each in self.messages), self.fingerprint
        return [
            Draft(
                params=self.sampling(
                    choice, max_tokens=max_tokens, logprobs=logprobs, grammar=grammar
                ),
                fingerprint=fingerprint,
                model=self.model,
                messages=messages,
                background=bool(self.background),
                priority=self.priority or 0,
                ttl=self.ttl,
            )
            for choice in range(self.n or 1)
        ]
