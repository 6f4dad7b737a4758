"""What a person at a terminal sees of a job that waits."""

import json
import threading
from pathlib import Path

from tests.support.stack import MINIVAULT
from tests.support.stand_in import Reply, Seen, serving
from tests.support.terminal import Terminal


def frame(name: str, seq: int | None, **data: object) -> bytes:
    number = b"" if seq is None else f"id: {seq}\n".encode()
    return number + f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


DONE = frame(
    "done",
    3,
    finish_reason="stop",
    usage={"prompt_tokens": 1, "completion_tokens": 1},
    timings={"queue": 0, "prefill": 0, "decode": 0, "total": 0},
)


def test_the_place_in_the_queue_is_shown_until_the_answer_comes(tmp_path: Path) -> None:
    queued = {"id": "job-1", "model": "m"}
    answered = threading.Event()

    def answer(seen: Seen) -> Reply:
        if seen.method == "POST":
            first = frame("queued", 1, **queued, position=9)
            later = frame("queued", None, **queued, position=7, estimate=21.4)
            body, cut = first + later, True  # goes on over another connection
        else:
            answered.wait(timeout=20)
            body, cut = frame("token", 2, text="Paris") + DONE, False
        return Reply(headers={"Content-Type": "text/event-stream"}, body=body, cut=cut)

    with (
        serving(answer) as url,
        Terminal(MINIVAULT, "stream", "x", "--url", url, cwd=tmp_path) as terminal,
    ):
        terminal.wait_for("7 in front, about 21 s")
        answered.set()
        terminal.wait_for("Paris")
        assert terminal.wait_for_end() == 0
