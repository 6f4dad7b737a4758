"""The judge of `make chaos` has to see each way in which a stream can be wrong."""

from collections.abc import Sequence

import pytest

from shared.events import AnyEvent, Done, FinishReason, Queued, Started, Timings, Token, Usage
from tests.chaos.prompts import Request
from tests.chaos.record import Record
from tests.chaos.verdict import Answer, Counts, Row, judge

JOB = "job-1"
TIMES = Timings(queue=0, prefill=0, decode=0, total=0)
LOG: list[AnyEvent] = [
    Queued(seq=1, id=JOB, model="m", position=0),
    Started(seq=2, prompt_tokens=3),
    Token(seq=3, ids=(7,), text="a"),
    Token(seq=4, ids=(8, 9), text="bc"),
    Token(seq=5, ids=(), text="d"),
    Done(
        seq=6,
        finish_reason=FinishReason.LENGTH,
        usage=Usage(prompt_tokens=3, completion_tokens=3),
        timings=TIMES,
    ),
]
ANSWER = Answer("abcd", 3)
ROW = Row(JOB, "done", "abcd", 3)


def record(*seqs: int) -> Record:
    """Of a client that got these events of the log."""
    found = Record(Request(0, {"temperature": 0}))
    for seq in seqs:
        event = LOG[seq - 1]
        data = {
            "id": JOB,
            "text": event.text if isinstance(event, Token) else "",
            "usage": {"completion_tokens": 3},
        }
        found.note(seq, event.name, data, at=float(seq))
    return found


def verdict(
    seen: Record,
    *,
    log: Sequence[AnyEvent] = tuple(LOG),
    rows: Sequence[Row] = (ROW,),
    answer: Answer | None = ANSWER,
) -> dict[str, int]:
    """The counts that are not 0."""
    counts = judge(
        [seen], logs={JOB: log}, rows=rows, undisturbed={} if answer is None else {0: answer}
    )
    found = {name: value for name, value in counts.numbers().items() if value}
    assert counts.clean == (not found)
    assert bool(counts.problems) == bool(found)
    return found


def test_a_whole_stream_is_clean() -> None:
    assert verdict(record(1, 2, 3, 4, 5, 6)) == {}


@pytest.mark.parametrize(
    ("seqs", "found"),
    [
        ((1, 2, 4, 5, 6), {"lost": 1, "different": 1, "rows_wrong": 1}),
        ((1, 2, 3, 5, 6), {"lost": 2, "different": 1, "rows_wrong": 1}),
        ((1, 3, 4, 5, 6), {"lost": 1}),
        ((1, 2, 3, 4, 4, 5, 6), {"repeated": 2, "different": 1, "rows_wrong": 1}),
        ((1, 2, 3, 4, 3, 4, 5, 6), {"repeated": 3, "different": 1, "rows_wrong": 1}),
        ((1, 2, 4, 3, 5, 6), {"out_of_order": 1, "different": 1, "rows_wrong": 1}),
        ((1, 2, 3), {"lost": 4, "unfinished": 1}),
    ],
)
def test_what_the_client_got_is_held_to_the_log(seqs: tuple[int, ...], found: dict) -> None:
    assert verdict(record(*seqs)) == found


def test_a_stream_that_never_got_a_job() -> None:
    assert verdict(record(), rows=[]) == {"unfinished": 1, "rows_missing": 1}


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(LOG[:5], id="no end"),
        pytest.param([*LOG, Started(seq=7, prompt_tokens=3)], id="on behind the end"),
        pytest.param([*LOG[:2], Token(seq=3, ids=(), text="a"), *LOG[3:]], id="tokens uncounted"),
    ],
)
def test_a_log_is_whole_in_itself(log: list[AnyEvent]) -> None:
    assert verdict(record(1, 2, 3, 4, 5, 6), log=log)["torn_logs"] == 1


def test_an_event_that_is_in_no_log() -> None:
    log = [event for event in LOG if event.seq != 4]
    assert verdict(record(1, 2, 3, 4, 5, 6), log=log) == {"torn_logs": 1}


def test_a_failed_stream_is_unfinished() -> None:
    seen = record(1, 2)
    seen.note(3, "error", {"code": "worker_lost", "message": "three times", "usage": {}}, at=3.0)
    assert verdict(seen, log=LOG[:2], rows=[ROW])["unfinished"] == 1


@pytest.mark.parametrize("answer", [Answer("abce", 3), Answer("abcd", 4), Answer("abcde", 3), None])
def test_a_text_unlike_the_undisturbed_one(answer: Answer | None) -> None:
    assert verdict(record(1, 2, 3, 4, 5, 6), answer=answer) == {"different": 1}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], {"rows_missing": 1}),
        ([ROW, ROW], {"rows_double": 1}),
        ([ROW, ROW._replace(id="job-2")], {"rows_double": 1}),
        ([ROW._replace(response="abc")], {"rows_wrong": 1}),
        ([ROW._replace(completion_tokens=2)], {"rows_wrong": 1}),
        ([ROW._replace(status="cancelled")], {"rows_wrong": 1}),
    ],
)
def test_rows_are_one_a_job_and_true(rows: list[Row], found: dict) -> None:
    assert verdict(record(1, 2, 3, 4, 5, 6), rows=rows) == found


def test_counts_add_up() -> None:
    counts = Counts(lost=1, problems=["a"])
    counts.add(Counts(lost=2, dirty=1, problems=["b"]))
    assert counts == Counts(lost=3, dirty=1, problems=["a", "b"])
