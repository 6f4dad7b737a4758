"""`python -m cli.keeper`: starts again what `docker kill` has ended. An optional container.

A restart policy brings back what dies, but Docker takes `docker kill` for a wish that it stay
dead, just as `docker stop`. The two differ in Docker's events: a stop is announced by the
container's stop signal, a kill is SIGKILL alone.

https://docs.docker.com/reference/api/engine/ (events, container start)
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

_SOCKET: Final = "/run/docker.sock"
_PROJECT: Final = "KEEPER_PROJECT"
_API: Final = "/v1.41"
_KILL: Final = "9"


class Docker(http.client.HTTPConnection):
    """Docker's engine, by its socket."""

    def __init__(self) -> None:
        super().__init__("docker")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(_SOCKET)

    def events(self, project: str) -> Iterator[dict[str, Any]]:
        """Kills and deaths of a Compose project's containers, as they happen."""
        filters = {
            "type": ["container"],
            "event": ["kill", "die"],
            "label": [f"com.docker.compose.project={project}"],
        }
        self.request("GET", f"{_API}/events?filters={quote(json.dumps(filters))}")
        with self.getresponse() as response:
            while line := response.readline():
                yield json.loads(line)

    def start(self, container: str) -> int:
        """The HTTP status: 204 if it runs again."""
        self.request("POST", f"{_API}/containers/{container}/start")
        with self.getresponse() as response:
            response.read()
            return response.status


def killed(events: Iterator[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Id and name of each container that died of SIGKILL alone."""
    signals: dict[str, set[str]] = {}
    for event in events:
        container, attributes = event["Actor"]["ID"], event["Actor"]["Attributes"]
        if event["Action"] == "kill":
            signals.setdefault(container, set()).add(attributes["signal"])
        elif signals.pop(container, set()) == {_KILL}:
            yield container, attributes["name"]


def main() -> int:
    """Watch until the engine ends. Then Docker's restart policy has its turn."""
    try:
        for container, name in killed(Docker().events(os.environ[_PROJECT])):
            status = Docker().start(container)
            line = {"process": "keeper", "event": "started again", "name": name, "status": status}
            print(json.dumps(line), flush=True)  # noqa: T201
    except OSError as error:
        print(f"Docker's engine can't be asked: {error}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
