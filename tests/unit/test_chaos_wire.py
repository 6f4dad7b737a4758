"""The chaos clients' own reading of HTTP and server-sent events."""

import pytest

from tests.chaos.wire import ChunkedDecoder, SseEvent, SseParser

STREAM = (
    ": ping\r\n\r\n"
    'id: 1\r\nevent: queued\r\ndata: {"id":"x"}\r\n\r\n'
    'event: queued\r\ndata: {"position":1}\r\n\r\n'
    'id: 2\nevent: token\ndata: {"text":"雪 "}\n\n'
    'id: 3\r\nevent: token\r\ndata: {"te'
).encode()
EVENTS = [
    SseEvent("queued", '{"id":"x"}', "1"),
    SseEvent("queued", '{"position":1}', ""),
    SseEvent("token", '{"text":"雪 "}', "2"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_whatever_the_pieces_and_the_torn_one_is_dropped(size: int) -> None:
    parser = SseParser()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("chunk", [1, 5, 300])
def test_chunks_are_put_together(size: int, chunk: int) -> None:
    parts = [STREAM[start : start + chunk] for start in range(0, len(STREAM), chunk)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    decoder = ChunkedDecoder()
    body = b"".join(
        decoder.feed(coded[start : start + size]) for start in range(0, len(coded), size)
    )
    assert body == STREAM
    assert decoder.ended


def test_a_body_that_is_cut_off_has_not_ended() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"5\r\nab") == b"ab"
    assert not decoder.ended
