"""Event to server-sent event. Pure.

The frame's `id:` is the event's number, its data one JSON object. Clients need one rule for
the text: the response is the concatenation of every `text` field, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from sse_starlette.event import ServerSentEvent

from api.views import TokenLogprobsView
from shared.events import AnyEvent, Cancelled, Done, Failed, Token

_INTERNAL: Final = frozenset({"type", "seq", "v", "ids", "logprobs"})
"""In the frame's own fields, the worker's business, or told in another form."""

_LINE_BREAKS: Final = [
    (char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029"
]
"""JSON may hold these as they are, but clients that split lines as Unicode has them break there."""

_encode: Final = msgspec.json.Encoder().encode


_PIECE: Final = 16 * 1024
"""Bytes that are worth a write of their own. A client that does not read has one in memory."""


class Last(bytes):
    """A piece that is followed by nothing: the end of its body goes out with it."""


def pieces(frames: Iterable[bytes], *, end: bool = False) -> Iterator[bytes]:
    """Frames put together, each made only when it is its turn. `end`: nothing follows them."""
    piece: list[bytes] = []
    size = 0
    for each in frames:
        piece.append(each)
        size += len(each)
        if size >= _PIECE:
            yield b"".join(piece)
            piece.clear()
            size = 0
    if piece:
        yield (Last if end else bytes)(b"".join(piece))


def one_line(encoded: bytes) -> bytes:
    """JSON without what some clients would take for the end of a line."""
    if not encoded.isascii():
        for char, escaped in _LINE_BREAKS:
            encoded = encoded.replace(char, escaped)
    return encoded


def frame(event: AnyEvent) -> bytes:
    """What is not in the log is numbered 0 and gets no `id:`; a client can't resume behind it."""
    if isinstance(event, Token) and not event.logprobs:  # nearly all are
        text = one_line(_encode(event.text))
        return b'id: %d\r\nevent: token\r\ndata: {"text":%b}\r\n\r\n' % (event.seq, text)
    return json_frame(_data_of(event), event=event.name, id=str(event.seq) if event.seq else None)


def json_frame(data: dict[str, Any], event: str, id: str | None = None) -> bytes:  # noqa: A002 (SSE's word)
    return ServerSentEvent(one_line(_encode(data)).decode(), event=event, id=id).encode()


def _data_of(event: AnyEvent) -> dict[str, Any]:
    """What a client gets of an event."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    data = {name: value for name, value in fields.items() if name not in _INTERNAL}
    if isinstance(event, Token) and event.logprobs:
        told = [TokenLogprobsView.of_token(each) for each in event.logprobs]
        data["logprobs"] = [each.model_dump() for each in told]
    if isinstance(event, Done | Failed | Cancelled):
        data["usage"]["total_tokens"] = event.usage.total_tokens
    return data
