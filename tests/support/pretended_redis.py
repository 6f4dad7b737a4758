"""A server that says what a test wants said, and when: silence, lateness, another role."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import hiredis

Rule = Callable[[int, list[bytes]], bytes | None]
"""Of a connection's number and a command: what is answered, or None for what is usual."""
SILENCE = b""


class PretendedRedis:
    """Speaks RESP3 as far as its callers need it. Connections are numbered as they come."""

    def __init__(self, rule: Rule | None = None) -> None:
        self.rule: Rule = rule or (lambda _number, _command: None)
        self.connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuse what comes, and cut what there is."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                number = len(self.connections)
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(number, connection), daemon=True).start()

    def _serve(self, number: int, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        with suppress(OSError):
            while data := connection.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    answer = self.rule(number, command)
                    connection.sendall(_usual(command) if answer is None else answer)


@contextmanager
def pretended_redis(rule: Rule | None = None) -> Iterator[PretendedRedis]:
    server = PretendedRedis(rule)
    try:
        yield server
    finally:
        server.close()


def _usual(command: list[bytes]) -> bytes:
    match command[0].upper():
        case b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        case b"PING":
            return b"+PONG\r\n"
        case b"SUBSCRIBE" | b"UNSUBSCRIBE" as name:
            return b"".join(pushed(name.lower(), channel) for channel in command[1:])
    return b"+OK\r\n"


def message(channel: bytes, payload: bytes) -> bytes:
    return pushed(b"message", channel, b"$%d\r\n%b" % (len(payload), payload))


def pushed(kind: bytes, channel: bytes, last: bytes = b":1") -> bytes:
    words = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in (kind, channel))
    return b">3\r\n%b%b\r\n" % (words, last)
