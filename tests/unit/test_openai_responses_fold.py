"""A response's events and their numbers come from the log alone."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.openai.responses.fold import ResponseEvent, ResponseFold
from api.openai.responses.note import ResponseNote
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Loading,
    Logprob,
    Queued,
    Resumed,
    Started,
    Timings,
    Token,
    TokenLogprobs,
    Usage,
)
from shared.job import GenerationRequest, Message, SamplingParams

ID = "0123456789abcdef0123456789abcdef"
REQUEST = GenerationRequest(
    id=f"job-{ID}",
    model="m",
    messages=(Message("system", "Be brief."), Message("user", "Hello")),
    params=SamplingParams(max_tokens=9, temperature=0.5, seed=1),
    background=True,
    created_at=1_700_000_000.9,
)
NOTE = ResponseNote(text={"format": {"type": "text"}}, instructed=True, metadata={"a": "b"})
USAGE = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=2)
TIMINGS = Timings(queue=0.1, prefill=0.2, decode=0.3, total=2.6)
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

HEAD = [Queued(seq=0, id=REQUEST.id, model="m", position=2), Started(seq=0, prompt_tokens=3)]


def token(text: str, *ids: int) -> Token:
    return Token(seq=0, ids=ids or (1,), text=text)


def done(reason: FinishReason = FinishReason.STOP) -> Done:
    return Done(seq=0, finish_reason=reason, usage=USAGE, timings=TIMINGS)


def failed(code: str = "worker_lost") -> Failed:
    return Failed(seq=0, code=code, message="It went.", usage=USAGE, timings=TIMINGS)


CANCELLED = Cancelled(seq=0, usage=USAGE, timings=TIMINGS)


def numbered(events: Sequence[Any]) -> list[AnyEvent]:
    return [msgspec.structs.replace(event, seq=seq) for seq, event in enumerate(events, start=1)]


def told(events: Sequence[AnyEvent]) -> list[ResponseEvent]:
    fold = ResponseFold(REQUEST, NOTE)
    return [each for event in events for each in fold.add(event)]


def kinds(found: Sequence[ResponseEvent]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in found]


BEGUN = ["created", "queued", "in_progress"]
OPENED = ["output_item.added", "content_part.added"]
CLOSED = ["output_text.done", "content_part.done", "output_item.done"]
DELTA = "output_text.delta"


def test_a_response_from_its_beginning_to_its_end() -> None:
    found = told(numbered([*HEAD, token("On"), token("ce", 2, 3), done()]))
    assert kinds(found) == [*BEGUN, *OPENED, DELTA, DELTA, *CLOSED, "completed"]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    for each in found:
        STREAM_EVENT.validate_python(each)  # as OpenAI's own types have it
    statuses = [each["response"]["status"] for each in found if "response" in each]
    assert statuses == ["queued", "queued", "in_progress", "completed"]
    whole = Response.model_validate(found[-1]["response"])
    assert whole.id == f"resp_{ID}"
    assert whole.output_text == "Once"
    assert whole.instructions == "Be brief."
    assert whole.metadata == {"a": "b"}
    assert (whole.created_at, whole.completed_at) == (1_700_000_000, 1_700_000_003)
    assert whole.usage is not None
    assert whole.usage.total_tokens == 7
    assert whole.usage.input_tokens_details.cached_tokens == 2
    item = found[-2]["item"]
    assert (item["id"], item["status"]) == (f"msg_{ID}", "completed")
    assert found[-1]["response"]["output"] == [item]


def test_an_answer_of_nothing_is_a_message_of_nothing() -> None:
    found = told(numbered([*HEAD, done()]))
    assert kinds(found) == [*BEGUN, *OPENED, *CLOSED, "completed"]
    assert Response.model_validate(found[-1]["response"]).output_text == ""


def test_too_few_tokens_make_it_incomplete() -> None:
    found = told(numbered([*HEAD, token("On"), done(FinishReason.LENGTH)]))
    assert kinds(found)[-4:] == [*CLOSED, "incomplete"]
    last = found[-1]["response"]
    assert (last["status"], last["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    assert last["output"][0]["status"] == "incomplete"
    assert last["completed_at"] is None


def test_a_cancelled_one_ends_its_stream_by_an_event_that_clients_know() -> None:
    waiting = told(numbered([HEAD[0], CANCELLED]))
    assert kinds(waiting) == ["created", "queued", "incomplete"]
    running = told(numbered([*HEAD, token("On"), CANCELLED]))
    assert kinds(running) == [*BEGUN, *OPENED, DELTA, *CLOSED, "incomplete"]
    for found in (waiting, running):
        last = found[-1]["response"]
        assert (last["status"], last["incomplete_details"]) == ("cancelled", None)
        STREAM_EVENT.validate_python(found[-1])


def test_a_failure_is_told_under_a_code_that_clients_know() -> None:
    for code, known in (
        ("worker_lost", "server_error"),
        ("expired", "server_error"),
        ("prompt_too_long", "invalid_prompt"),
        ("no_chat_template", "invalid_prompt"),
    ):
        found = told(numbered([HEAD[0], failed(code)]))
        assert kinds(found) == ["created", "queued", "failed"]
        error = found[-1]["response"]["error"]
        assert error == {"code": known, "message": "It went.", "type": code}
        STREAM_EVENT.validate_python(found[-1])


def test_what_is_put_back_goes_on_in_the_same_item_behind_its_failure() -> None:
    again = Queued(seq=0, id=REQUEST.id, model="m", position=0)
    found = told(
        numbered(
            [*HEAD, token("On"), failed(), again, Resumed(seq=0, attempt=2), token("ce"), done()]
        )
    )
    assert kinds(found) == [
        *[*BEGUN, *OPENED, DELTA, "failed"],
        *["queued", "in_progress", DELTA, *CLOSED, "completed"],
    ]
    requeued = found[7]["response"]
    assert (requeued["status"], requeued["error"], requeued["usage"]) == ("queued", None, None)
    assert Response.model_validate(found[-1]["response"]).output_text == "Once"


def test_news_is_not_an_event() -> None:
    found = told(
        [
            *numbered([HEAD[0]]),
            Queued(seq=0, id=REQUEST.id, model="m", position=1),
            Loading(seq=2, model="m"),
            Loading(seq=3, model="m"),
            Started(seq=4, prompt_tokens=3),
            Resumed(seq=5, attempt=2),
            Token(seq=6, ids=(1,), text=""),
        ]
    )
    assert kinds(found) == BEGUN


def test_log_probabilities_come_with_their_tokens() -> None:
    drawn = Logprob(id=1, raw=b"\xc3", logprob=-0.5)
    event = Token(seq=0, ids=(1,), text="", logprobs=(TokenLogprobs(drawn, (drawn,)),))
    found = told(numbered([*HEAD, event, token("é"), done()]))
    assert kinds(found) == [*BEGUN, *OPENED, DELTA, DELTA, *CLOSED, "completed"]
    first = {"token": "�", "logprob": -0.5, "bytes": [195]}
    assert found[5]["logprobs"] == [{**first, "top_logprobs": [first]}]
    assert found[-2]["item"]["content"][0]["logprobs"] == found[5]["logprobs"]
    for each in found:
        STREAM_EVENT.validate_python(each)


def test_the_text_is_put_together_as_often_for_many_tokens_as_for_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def snapshots(tokens: int) -> int:
        made = []
        part = ResponseFold._part
        with monkeypatch.context() as patch:
            patch.setattr(ResponseFold, "_part", lambda fold: made.append(1) or part(fold))
            told(numbered([*HEAD, *[token("x")] * tokens, done()]))
        return len(made)

    assert snapshots(1000) == snapshots(1) > 0


# A log as attempts write it: any split of a text over events, loading, deaths and resumptions.
ENDS = st.sampled_from([done(), done(FinishReason.LENGTH), CANCELLED, failed()])
ASIDES = st.sampled_from([Loading(seq=0, model="m"), Resumed(seq=0, attempt=2), HEAD[1]])
PIECES = st.lists(st.text(max_size=5).map(token) | ASIDES, max_size=30)
PUT_BACK = [failed(), Queued(seq=0, id=REQUEST.id, model="m", position=0)]


@st.composite
def logs(draw: st.DrawFn) -> list[AnyEvent]:
    events: list[Any] = [HEAD[0]]
    for _ in range(draw(st.integers(0, 2))):
        events += [*draw(PIECES), *PUT_BACK]
    events += draw(PIECES)
    if draw(st.booleans()):
        events.append(draw(ENDS))
    return numbered(events)


@settings(deadline=None)  # says nothing of the fold on a busy machine
@given(log=logs(), cut=st.integers(0, 100), remarks=st.integers(0, 3))
def test_any_resumption_gives_the_same_events_under_the_same_numbers(
    log: list[AnyEvent], cut: int, remarks: int
) -> None:
    whole = told(log)
    assert [each["sequence_number"] for each in whole] == list(range(len(whole)))
    assert "".join(each.get("delta", "") for each in whole) == "".join(
        event.text for event in log if isinstance(event, Token)
    )
    # Another process folds a shorter log first, goes on later, and hears other news meanwhile.
    cut = min(cut, len(log))
    news: list[AnyEvent] = [Queued(seq=0, id=REQUEST.id, model="m", position=9)] * remarks
    again = told([*log[:cut], *news, *log[cut:]])
    assert json.dumps(again) == json.dumps(whole)
    assert told(log[:cut]) == whole[: len(told(log[:cut]))]
    # What is read whole is what the stream's last event has said.
    if log[-1].name in {"done", "error", "cancelled"}:
        fold = ResponseFold(REQUEST, NOTE).add_all(log)
        assert fold.view().model_dump() == whole[-1]["response"]
        assert fold.last == whole[-1]["sequence_number"]


@settings(deadline=None)
@given(log=logs())
def test_the_sdk_can_follow_whatever_comes(log: list[AnyEvent]) -> None:
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=(), text_format=omit)
    for each in told(log):
        state.handle_event(STREAM_EVENT.validate_python(each))
