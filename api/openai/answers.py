"""What chat completions and completions answer. Written by msgspec, a chunk for each event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from api.openai.logprobs import ChatLogprobs, CompletionLogprobs
from shared import events

FinishReason: TypeAlias = Literal["stop", "length"]


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int
    """Of the prompt's tokens, those that did not have to be computed again."""


class Usage(msgspec.Struct, frozen=True):
    """Of all choices; a prompt counts once, however many were made for it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Message(msgspec.Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: Message
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None


class CompletionChoice(msgspec.Struct, frozen=True):
    """Whole, or what an event adds to it."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: CompletionLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


def usage_of(choices: Iterable[events.Usage], *, for_each_prompt: int) -> Usage:
    """`choices` are those of the first prompt, then of the next, so many of each."""
    found = list(choices)
    prompts = found[::for_each_prompt]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in found)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=CachedTokens(sum(usage.cached_tokens for usage in prompts)),
    )
