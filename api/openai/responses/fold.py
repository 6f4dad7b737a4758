"""From a job's events to those of its response. Pure.

A response's events have numbers of their own, and whoever folds the same log from its start gets
the same events under the same numbers: another API process, or this one after a crash. So nothing
in them may come from anywhere but the log: no clock, no position in the queue, nothing random.

| in the log | in the response's stream |
|---|---|
| `queued` | `response.created`, the first time; `response.queued` |
| whatever comes next | `response.in_progress` |
| the first text | `response.output_item.added`, `response.content_part.added` |
| `token` | `response.output_text.delta`, unless it says nothing |
| `done` | the text, its part and its item are done; `response.completed` or `.incomplete` |
| `cancelled` | the same, as far as they had begun; `response.incomplete` |
| `error` | `response.failed`, and nothing is done: it may be put back and go on |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from api.openai.responses.ids import output_id, response_id
from api.openai.responses.note import ResponseNote
from api.openai.responses.views import (
    IncompleteDetailsView,
    ItemStatus,
    LogprobView,
    OutputMessageView,
    OutputTextView,
    ResponseErrorView,
    ResponseView,
    Status,
    logprob_views,
    usage_view,
)
from shared.errors import InvalidPromptError, NoChatTemplateError, PromptTooLongError
from shared.events import AnyEvent, Cancelled, Done, Failed, FinishReason, Queued, Token
from shared.job import GenerationRequest

ResponseEvent: TypeAlias = dict[str, Any]
"""As it is sent, with its `type` and `sequence_number`."""

_OF_THE_PROMPT: Final = frozenset(
    kind.code for kind in (InvalidPromptError, NoChatTemplateError, PromptTooLongError)
)


class ResponseFold:
    """A response as far as its job's events have told. Begins with the log's first."""

    def __init__(self, request: GenerationRequest, note: ResponseNote) -> None:
        self._request = request
        self._note = note
        self._numbers = 0
        self._status: Status = "queued"
        self._end: Done | Failed | Cancelled | None = None
        self._texts: list[str] = []
        self._logprobs: list[LogprobView] = []
        self._has_item = False

    @property
    def last(self) -> int:
        """Number of the last event; -1 before the first."""
        return self._numbers - 1

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def failure(self) -> Failed | None:
        """What it has ended in, if that is a failure."""
        return self._end if isinstance(self._end, Failed) else None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add_all(self, events: Iterable[AnyEvent]) -> ResponseFold:
        for event in events:
            self.add(event)
        return self

    def add(self, event: AnyEvent) -> list[ResponseEvent]:
        """The response's events that this one is."""
        if not event.seq:  # a remark that the log does not hold
            return []
        found = []
        for each in self._told(event):
            found.append({**each, "sequence_number": self._numbers})
            self._numbers += 1
        return found

    def view(self) -> ResponseView:
        request, note, end = self._request, self._note, self._end
        completed = self._status == "completed" and isinstance(end, Done)
        return ResponseView(
            id=response_id(request.id),
            created_at=int(request.created_at),
            status=self._status,
            background=request.background,
            completed_at=int(request.created_at + end.timings.total) if completed and end else None,
            error=_error(self.failure) if self.failure else None,
            incomplete_details=IncompleteDetailsView() if self._status == "incomplete" else None,
            instructions=request.messages[0].content if note.instructed else None,
            max_output_tokens=note.max_output_tokens,
            model=request.model,
            output=[self._item()] if self._has_item else [],
            parallel_tool_calls=note.parallel_tool_calls,
            previous_response_id=note.previous_response_id,
            prompt_cache_key=note.prompt_cache_key,
            safety_identifier=note.safety_identifier,
            store=note.store,
            temperature=request.params.temperature,
            text=note.text,
            tool_choice=note.tool_choice,
            top_logprobs=note.top_logprobs,
            top_p=request.params.top_p,
            usage=usage_view(end.usage) if end else None,
            user=note.user,
            metadata=note.metadata,
        )

    def _told(self, event: AnyEvent) -> Iterator[ResponseEvent]:
        if isinstance(event, Queued):
            self._status, self._end = "queued", None
            if not self._numbers:
                yield self._lifecycle("response.created")
            yield self._lifecycle("response.queued")
            return
        if self._status == "queued" and not isinstance(event, Failed | Cancelled):
            self._status = "in_progress"
            yield self._lifecycle("response.in_progress")
        match event:
            case Token():
                yield from self._said(event)
            case Done():
                yield from self._opening()
                self._end = event
                stopped = event.finish_reason is FinishReason.STOP
                self._status = "completed" if stopped else "incomplete"
                yield from self._closing()
                yield self._lifecycle(f"response.{self._status}")
            case Cancelled():
                # No event of OpenAI's streams is called for it; the response's status tells.
                self._end, self._status = event, "cancelled"
                yield from self._closing() if self._has_item else ()
                yield self._lifecycle("response.incomplete")
            case Failed():
                self._end, self._status = event, "failed"
                yield self._lifecycle("response.failed")
            case _:  # begun, or begun again
                pass

    def _said(self, event: Token) -> Iterator[ResponseEvent]:
        if not event.text and not event.logprobs:
            return
        yield from self._opening()
        logprobs = logprob_views(event.logprobs)
        self._texts.append(event.text)
        self._logprobs += logprobs
        yield {
            "type": "response.output_text.delta",
            **self._place(),
            "content_index": 0,
            "delta": event.text,
            "logprobs": [each.model_dump() for each in logprobs],
        }

    def _opening(self) -> Iterator[ResponseEvent]:
        if self._has_item:
            return
        self._has_item = True
        item = self._item().model_copy(update={"content": []})
        yield {"type": "response.output_item.added", "output_index": 0, "item": item.model_dump()}
        yield {
            "type": "response.content_part.added",
            **self._place(),
            "content_index": 0,
            "part": self._part().model_dump(),
        }

    def _closing(self) -> Iterator[ResponseEvent]:
        item = self._item().model_dump()
        (part,) = item["content"]
        at = {**self._place(), "content_index": 0}
        text, logprobs = part["text"], part["logprobs"]
        yield {"type": "response.output_text.done", **at, "text": text, "logprobs": logprobs}
        yield {"type": "response.content_part.done", **at, "part": part}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}

    def _lifecycle(self, kind: str) -> ResponseEvent:
        return {"type": kind, "response": self.view().model_dump()}

    def _place(self) -> dict[str, Any]:
        return {"item_id": output_id(self._request.id), "output_index": 0}

    def _part(self) -> OutputTextView:
        return OutputTextView(text=self.text, logprobs=self._logprobs)

    def _item(self) -> OutputMessageView:
        status: ItemStatus = "in_progress"
        if self._end is not None:
            status = "completed" if self._status == "completed" else "incomplete"
        return OutputMessageView(
            id=output_id(self._request.id), status=status, content=[self._part()]
        )


def _error(event: Failed) -> ResponseErrorView:
    """Under one of OpenAI's own codes, as its clients know no others."""
    code = "invalid_prompt" if event.code in _OF_THE_PROMPT else "server_error"
    return ResponseErrorView(code=code, message=event.message, type=event.code)
