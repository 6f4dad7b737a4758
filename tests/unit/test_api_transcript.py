from api.transcript import Transcript
from shared.events import (
    AnyEvent,
    Cancelled,
    Done,
    Failed,
    FinishReason,
    Queued,
    Resumed,
    Started,
    Timings,
    Token,
    Usage,
)

USAGE = Usage(prompt_tokens=3, completion_tokens=4)
TIMINGS = Timings(queue=0.1, prefill=0.2, decode=0.3, total=0.6)
FAILED = Failed(seq=4, code="worker_lost", message="m", usage=USAGE, timings=TIMINGS)
HEAD: list[AnyEvent] = [
    Queued(seq=1, id="job-1", model="m", position=2),
    Started(seq=2, prompt_tokens=3),
    Token(seq=3, ids=(1,), text="On"),
]


def test_every_end_tells_what_was_used() -> None:
    for end, status, reason in (
        (
            Done(seq=4, finish_reason=FinishReason.LENGTH, usage=USAGE, timings=TIMINGS),
            "done",
            "length",
        ),
        (FAILED, "failed", "error"),
        (Cancelled(seq=4, usage=USAGE, timings=TIMINGS), "cancelled", "cancelled"),
    ):
        told = Transcript([*HEAD, end])
        assert (told.id, told.status, told.finish_reason) == ("job-1", status, reason)
        assert (told.usage, told.timings, told.ended) == (USAGE, TIMINGS, True)


def test_a_failed_job_that_is_put_back_waits_again_and_keeps_its_text() -> None:
    told = Transcript([*HEAD, FAILED])
    assert told.error == FAILED
    told.add(Queued(seq=5, id="job-1", model="m", position=0))
    assert (told.status, told.response) == ("queued", "On")
    assert (told.finish_reason, told.error, told.usage, told.timings) == (None,) * 4
    assert not told.ended
    told.add(Resumed(seq=6, attempt=2))
    told.add(Token(seq=7, ids=(2,), text="ce"))
    assert (told.status, told.response) == ("running", "Once")
