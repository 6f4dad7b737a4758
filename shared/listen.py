"""Where the API listens: tried by whoever starts it, taken by the API itself."""

from __future__ import annotations

import errno
import socket

from shared.errors import StackError
from shared.settings import PREFIX, Settings


def listen(settings: Settings) -> socket.socket:
    """Bind before anything else is built, so that a taken port is told in one line.

    Raises:
        StackError: the port is taken, or the address is not one of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:
        raise StackError(
            f"{settings.host} is no address to listen on. Correct {PREFIX}HOST."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StackError(
                f"Port {settings.port} on {settings.host} is taken. Free it, or set {PREFIX}PORT."
            ) from error
        raise StackError(
            f"Port {settings.port} on {settings.host} can't be listened on "
            f"({error.strerror}). Set {PREFIX}HOST or {PREFIX}PORT."
        ) from error
    return listener
