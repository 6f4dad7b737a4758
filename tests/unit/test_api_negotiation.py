import pytest

from api.errors import NotAcceptableError
from api.negotiation import stream_type

SSE = "text/event-stream"
PLAIN = "text/plain"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, SSE),
        ("", SSE),
        ("*/*", SSE),
        ("text/*", SSE),
        ("text/plain, text/event-stream", SSE),
        ("text/plain;q=0.9, text/event-stream;q=0.8", PLAIN),
        ("text/plain", PLAIN),
        ("TEXT/PLAIN", PLAIN),
        ("text/plain; charset=utf-8", PLAIN),
        ("application/json, text/plain;q=0.1", PLAIN),
        ("text/event-stream;q=0, */*", PLAIN),
        ("text/event-stream;q=0.1, text/*;q=0.5", PLAIN),
        ("text/plain;q=0, */*;q=0.1", SSE),
        ("application/json, */*;q=0.01", SSE),
        ("nonsense, text/plain", PLAIN),
        ("text/plain;q=0.5, text/event-stream;q=7", SSE),
    ],
)
def test_what_is_chosen(accept: str | None, chosen: str) -> None:
    assert stream_type(accept) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "text/html, image/*",
        "text/plain;q=0",
        "*/*;q=0",
        "text/event-stream;q=0.000",
        "text",
        "text/",
        ",;/",
    ],
)
def test_what_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptableError):
        stream_type(accept)
