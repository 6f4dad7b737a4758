"""How a job's events become choices: one class for each endpoint. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeAlias

from api.openai.answers import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Delta,
    FinishReason,
    Message,
    Usage,
)
from api.openai.logprobs import Offsets, chat_logprobs
from shared import events
from shared.events import Done, Token, TokenLogprobs

_REASONS: dict[events.FinishReason, FinishReason] = {
    events.FinishReason.STOP: "stop",
    events.FinishReason.LENGTH: "length",
}


class Answer:
    """What one choice has come to."""

    def __init__(self) -> None:
        self.logprobs: list[TokenLogprobs] = []
        self.done: Done | None = None
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reason(self) -> FinishReason:
        assert self.done is not None  # else the request has failed
        return _REASONS[self.done.finish_reason]

    @property
    def usage(self) -> events.Usage:
        assert self.done is not None
        return self.done.usage

    def add(self, event: events.AnyEvent) -> None:
        if isinstance(event, Token):
            self._texts.append(event.text)
            self.logprobs += event.logprobs
        elif isinstance(event, Done):
            self.done = event


class Name:
    """What a response says of itself."""

    def __init__(self, job_id: str, created: int, model: str) -> None:
        """`job_id` is the first job's."""
        self.number = job_id.removeprefix("job-")
        self.created = created
        self.model = model


ChunkChoice: TypeAlias = ChatChunkChoice | CompletionChoice


class Voice(Protocol):
    id_prefix: ClassVar[str]
    chunk_object: ClassVar[str]

    def opening(self, index: int) -> ChunkChoice | None:
        """What a choice's stream begins with."""
        ...

    def token(self, index: int, event: Token) -> ChunkChoice | None:
        """None where an event has nothing to tell."""
        ...

    def ending(self, index: int, event: Done) -> ChunkChoice: ...

    def whole(
        self, name: Name, answers: Sequence[Answer], usage: Usage
    ) -> ChatCompletion | Completion: ...


class ChatVoice:
    id_prefix: ClassVar[str] = "chatcmpl-"
    chunk_object: ClassVar[str] = "chat.completion.chunk"

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs

    def opening(self, index: int) -> ChatChunkChoice:
        return ChatChunkChoice(index, Delta(role="assistant", content=""))

    def token(self, index: int, event: Token) -> ChatChunkChoice | None:
        logprobs = chat_logprobs(event.logprobs) if event.logprobs else None
        if not event.text and logprobs is None:
            return None
        return ChatChunkChoice(index, Delta(content=event.text), None, logprobs)

    def ending(self, index: int, event: Done) -> ChatChunkChoice:
        return ChatChunkChoice(index, Delta(), _REASONS[event.finish_reason])

    def whole(self, name: Name, answers: Sequence[Answer], usage: Usage) -> ChatCompletion:
        choices = [
            ChatChoice(
                index,
                Message(answer.text),
                answer.reason,
                chat_logprobs(answer.logprobs) if self._logprobs else None,
            )
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(
            id=self.id_prefix + name.number,
            created=name.created,
            model=name.model,
            choices=choices,
            usage=usage,
        )


class CompletionVoice:
    id_prefix: ClassVar[str] = "cmpl-"
    chunk_object: ClassVar[str] = "text_completion"

    def __init__(self, *, logprobs: int | None, choices: int) -> None:
        self._logprobs = logprobs
        self._offsets = [Offsets(top=bool(logprobs)) for _ in range(choices)]

    def opening(self, _: int) -> None:
        return None

    def token(self, index: int, event: Token) -> CompletionChoice | None:
        logprobs = self._offsets[index].logprobs(event.logprobs) if event.logprobs else None
        if not event.text and logprobs is None:
            return None
        return CompletionChoice(index, event.text, None, logprobs)

    def ending(self, index: int, event: Done) -> CompletionChoice:
        return CompletionChoice(index, "", _REASONS[event.finish_reason])

    def whole(self, name: Name, answers: Sequence[Answer], usage: Usage) -> Completion:
        choices = [
            CompletionChoice(
                index,
                answer.text,
                answer.reason,
                None if self._logprobs is None else offsets.logprobs(answer.logprobs),
            )
            for index, (answer, offsets) in enumerate(zip(answers, self._offsets, strict=True))
        ]
        return Completion(
            id=self.id_prefix + name.number,
            created=name.created,
            model=name.model,
            choices=choices,
            usage=usage,
        )
