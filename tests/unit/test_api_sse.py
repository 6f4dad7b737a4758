import json
from collections.abc import Iterator
from typing import Any

import pytest

from api.sse import Last, frame, pieces
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Loading,
    Queued,
    Resumed,
    Started,
    Timings,
    Token,
    Usage,
)

USAGE = Usage(prompt_tokens=3, completion_tokens=4)
USAGE_DATA = {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 0, "total_tokens": 7}
TIMINGS = Timings(queue=0.1, prefill=0.2, decode=0.3, total=0.6)
TIMINGS_DATA = {"queue": 0.1, "prefill": 0.2, "decode": 0.3, "total": 0.6}

CASES: list[tuple[AnyEvent, str, dict[str, Any]]] = [
    (
        Queued(seq=7, id="job-1", model="m", position=2),
        "queued",
        {"id": "job-1", "model": "m", "position": 2},
    ),
    (Loading(seq=7, model="m"), "loading", {"model": "m"}),
    (Started(seq=7, prompt_tokens=3), "started", {"prompt_tokens": 3}),
    (Token(seq=7, ids=(1, 2), text="é\n"), "token", {"text": "é\n"}),
    (Token(seq=7, ids=(1,), text=""), "token", {"text": ""}),
    (Resumed(seq=7, attempt=2), "resumed", {"attempt": 2}),
    (
        Done(seq=7, finish_reason=FinishReason.LENGTH, usage=USAGE, timings=TIMINGS),
        "done",
        {
            "finish_reason": "length",
            "usage": USAGE_DATA,
            "timings": TIMINGS_DATA,
        },
    ),
    (
        Failed(seq=7, code="c", message="m", usage=USAGE, timings=TIMINGS),
        "error",
        {"code": "c", "message": "m", "usage": USAGE_DATA, "timings": TIMINGS_DATA},
    ),
    (
        Cancelled(seq=7, usage=USAGE, timings=TIMINGS),
        "cancelled",
        {"usage": USAGE_DATA, "timings": TIMINGS_DATA},
    ),
]


@pytest.mark.parametrize(("event", "name", "data"), CASES, ids=[case[1] for case in CASES])
def test_each_event_has_its_frame(event: AnyEvent, name: str, data: dict[str, Any]) -> None:
    number, event_name, told = frame(event).decode().removesuffix("\r\n\r\n").split("\r\n")
    assert (number, event_name) == ("id: 7", f"event: {name}")
    assert json.loads(told.removeprefix("data: ")) == data


def test_what_the_log_does_not_hold_has_no_number() -> None:
    made = frame(Queued(seq=0, id="job-1", model="m", position=1, estimate=2.5)).decode()
    assert "id:" not in made.replace('"id":', "")
    assert '"position":1,"estimate":2.5' in made


@pytest.mark.parametrize("text", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029", "\x1c", "\x0b"])
def test_no_line_break_splits_a_frame(text: str) -> None:
    encoded = frame(Token(seq=1, ids=(), text=f"a{text}b")).decode()
    lines = encoded.removesuffix("\r\n\r\n").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["id", "event", "data"]
    assert json.loads(lines[2].removeprefix("data: ")) == {"text": f"a{text}b"}


def test_text_is_readable_on_the_wire() -> None:
    assert "日本 🗼" in frame(Token(seq=1, ids=(), text="日本 🗼")).decode()


def test_frames_are_put_together_in_order_and_only_as_far_as_they_are_asked_for() -> None:
    made: list[int] = []

    def frames() -> Iterator[bytes]:
        for number in range(100):
            made.append(number)
            yield b"%04d" % number * 250

    found = pieces(frames())
    first = next(found)
    assert len(made) < 100
    assert first + b"".join(found) == b"".join(b"%04d" % number * 250 for number in range(100))
    assert list(pieces([])) == []
    assert list(pieces([b"a", b"b"])) == [b"ab"]


def test_only_the_last_piece_of_an_end_is_the_last() -> None:
    found = list(pieces((b"%04d" % number * 250 for number in range(40)), end=True))
    assert [isinstance(piece, Last) for piece in found] == [False, False, True]
    (piece,) = pieces([b"a", b"b"], end=False)
    assert not isinstance(piece, Last)
