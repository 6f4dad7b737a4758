"""Clients of many streams in one process, which does hardly anything but take bytes.

What it is given it keeps as it came, with the time, and looks at only when all of it is there.
"""

from __future__ import annotations

import array
import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

_READY = b"event: started"
_TOKEN = re.compile(rb'id: (\d+)\r\nevent: token\r\ndata: \{"text":" (\d+)"\}\r\n\r\n')


@dataclass
class Heard:
    """What all streams got together."""

    steps: int
    tokens: int = 0
    missing: int = 0
    repeated: int = 0
    misplaced: int = 0
    unfinished: int = 0
    """Streams that did not end in `done`."""
    sends: int = 0
    """Pieces in which it came, about one for each write of the API."""
    delays: array.array[float] = field(default_factory=lambda: array.array("d"))
    """Of each token: seconds from the append to its arrival here."""
    first: float = 0.0
    """When the first token of all streams was there."""
    last: float = 0.0
    """When their last was."""

    @property
    def rate(self) -> float:
        """Tokens a second, from then to then."""
        return self.tokens * (1 - 1 / self.steps) / (self.last - self.first)


class _Stream:
    def __init__(self, port: int, job_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(
            f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        self.parts: list[tuple[float, bytes]] = []

    def wait_until_live(self) -> None:
        head = b""
        while _READY not in head:
            part = self.socket.recv(1 << 16)
            if not part:
                raise RuntimeError(f"refused: {head[:200]!r}")
            head += part
        self.socket.setblocking(False)

    def whole(self) -> list[tuple[float, bytes]]:
        """Bodies of the chunks of the transfer, each with the time when its end was there."""
        bodies: list[tuple[float, bytes]] = []
        rest = b""
        for arrived, part in self.parts:
            rest += part
            while (line := rest.find(b"\r\n")) >= 0:
                size = int(rest[:line], 16)
                end = line + 2 + size + 2
                if len(rest) < end:
                    break
                bodies.append((arrived, rest[line + 2 : end - 2]))
                rest = rest[end:]
        return bodies


def read(port: int, job_ids: Sequence[str], pipe: Connection, seconds: float) -> None:
    """Sends "ready" once all streams are live, takes the times of the steps, answers `Heard`."""
    streams = [_Stream(port, job_id) for job_id in job_ids]
    for stream in streams:
        stream.wait_until_live()
    pipe.send("ready")
    _take(streams, time.monotonic() + seconds)
    steps: list[float] = pipe.recv()
    heard = Heard(len(steps))
    for stream in streams:
        heard.sends += len(stream.parts)
        _judge(stream, steps, heard)
    pipe.send(heard)


def hold(port: int, job_ids: Sequence[str], pipe: Connection) -> None:
    """Opens the streams, sends "ready", and keeps them until it is sent something."""
    streams = [_Stream(port, job_id) for job_id in job_ids]
    for stream in streams:
        stream.wait_until_live()
    pipe.send("ready")
    pipe.recv()


def _take(streams: Sequence[_Stream], deadline: float) -> None:
    poll = select.epoll()
    by_number = {stream.socket.fileno(): stream for stream in streams}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    clock = time.monotonic
    while by_number and clock() < deadline:
        for number, _ in poll.poll(1):
            stream = by_number[number]
            part = stream.socket.recv(1 << 16)
            if part:
                stream.parts.append((clock(), part))
            else:
                poll.unregister(number)
                del by_number[number]


def _judge(stream: _Stream, steps: Sequence[float], heard: Heard) -> None:
    """Token number n of a stream has the text " n" and the number n + 3, and comes once."""
    seen: list[int] = []
    ends = False
    for arrived, body in stream.whole():
        for number, text in _TOKEN.findall(body):
            step = int(text)
            heard.misplaced += int(number) != step + 3
            heard.delays.append(arrived - steps[step])
            heard.last = max(heard.last, arrived)
            if step == 0:
                heard.first = max(heard.first, arrived)
            seen.append(step)
        ends = ends or b"event: done" in body
        heard.unfinished += b"event: error" in body
    heard.tokens += len(seen)
    heard.missing += len(steps) - len(set(seen))
    heard.repeated += len(seen) - len(set(seen))
    heard.misplaced += seen != sorted(seen)
    heard.unfinished += not ends
