"""The SSE parser."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cli.sse import Parser, ServerEvent

STREAM = (
    ": ping\r\n\r\n"
    'id: 1\r\nevent: queued\r\ndata: {"id": "job-1"}\r\n\r\n'
    'event: token\nid: 2\ndata: {"text": "é\u2028☃"}\n\n'
    "data: two\rdata: lines\r\r"
    "event: cut\ndata: off"
).encode()


def parse(chunks: list[bytes]) -> list[ServerEvent]:
    parser = Parser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


EVENTS = [
    ServerEvent("queued", '{"id": "job-1"}', "1"),
    ServerEvent("token", '{"text": "é\u2028☃"}', "2"),
    ServerEvent("message", "two\nlines", None),
]


def test_events_are_parsed_whatever_the_line_ends() -> None:
    assert (parse([STREAM])) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in itertools.pairwise(places)]
    assert (parse(chunks)) == EVENTS


def test_an_event_without_data_is_none() -> None:
    assert (parse([b"event: token\nid: 3\n\n"])) == []


def test_a_value_keeps_all_but_its_first_blank() -> None:
    assert [event.data for event in parse([b"data:  x \n\ndata:y\n\n"])] == [" x ", "y"]
