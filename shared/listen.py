"""Addresses that processes listen on: tried by whoever starts one, taken by itself."""

from __future__ import annotations

import errno
import ipaddress
import socket

from shared.errors import StackError
from shared.settings import PREFIX


def listen(host: str, port: int, name: str = "") -> socket.socket:
    """Bind before anything else is built, so that a taken port is told in one line.

    `name` begins the names of the two settings, as in `METRICS_HOST` and `METRICS_PORT`.

    Raises:
        StackError: the port is taken, or the address is not one of this machine's.
    """
    host_setting, port_setting = f"{PREFIX}{name}HOST", f"{PREFIX}{name}PORT"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:
        raise StackError(f"{host} is no address to listen on. Correct {host_setting}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StackError(
                f"Port {port} on {host} is taken. Free it, or set {port_setting}."
            ) from error
        raise StackError(
            f"Port {port} on {host} can't be listened on "
            f"({error.strerror}). Set {host_setting} or {port_setting}."
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. Names may become any address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return is_localhost(host.lower())


def is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")
