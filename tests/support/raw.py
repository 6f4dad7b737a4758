"""Bytes to a service and back, as no HTTP client would send them."""

import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code; fails where it is not our error shape."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.headers["x-request-id"]
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return self.status, document["code"]


@dataclass
class Line:
    """One connection."""

    socket: socket.socket
    since: float = field(default_factory=time.monotonic)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def trickle(self, parts: Iterable[bytes], pause: float = 0.05) -> None:
        """Until the other side has enough of it, or there is an answer."""
        self.socket.settimeout(pause)
        try:
            for part in parts:
                self.socket.sendall(part)
                try:
                    self.socket.recv(1, socket.MSG_PEEK)
                except TimeoutError:
                    continue
                break
        except OSError:
            pass  # hung up: what it said before can still be read
        finally:
            self.socket.settimeout(10)

    def answer(self, method: str = "GET") -> Answer:
        response = HTTPResponse(self.socket, method=method)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def is_closed(self) -> bool:
        """Waits for it. What is said before is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    @property
    def age(self) -> float:
        return time.monotonic() - self.since


def connect(url: str) -> Line:
    address = urlsplit(url)
    return Line(socket.create_connection((address.hostname, address.port), timeout=10))


@contextmanager
def line(url: str) -> Iterator[Line]:
    found = connect(url)
    with found.socket:
        yield found


def ask(url: str, *parts: bytes, method: str = "GET") -> Answer:
    with line(url) as found:
        found.send(*parts)
        return found.answer(method)
