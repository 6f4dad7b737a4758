"""A stack of containers under a project name of its own, beside whatever else runs."""

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.poll import until

ROOT: Final = Path(__file__).parents[2]
_PROJECT: Final = "minivault-test"
# Nobody's .env, and more than five requests a minute.
_OVERRIDE: Final = """
services:
  models: {env_file: !reset null}
  worker: {env_file: !reset null}
  api:
    env_file: !reset null
    environment: {MINIVAULT_RATE_LIMIT: "off"}
  dashboard: {env_file: !reset null}
"""


class ComposeStack:
    def __init__(self, folder: Path, *, profiles: Sequence[str] = ()) -> None:
        self.port, self._dashboard_port = _free_ports(2)
        override = folder / "override.yml"
        override.write_text(_OVERRIDE)
        self._command = ["docker", "compose", "--env-file", os.devnull, "-p", _PROJECT]
        self._command += ["-f", str(ROOT / "docker-compose.yml"), "-f", str(override)]
        self._command += [part for profile in profiles for part in ("--profile", profile)]
        self._environment = os.environ | {
            "MINIVAULT_PORT": str(self.port),
            "MINIVAULT_DASHBOARD_PORT": str(self._dashboard_port),
            "DOCKER_SOCKET": _docker_socket(),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self._dashboard_port}"

    def compose(self, *arguments: str, seconds: float = 300) -> str:
        """Run `docker compose`; what it says, when it succeeds."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *arguments: str, seconds: float = 1800) -> None:
        self.compose("up", "--wait", *arguments, seconds=seconds)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What Docker knows of them, in the order of their names."""
        ids = self.compose("ps", "--all", "--quiet", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return sorted(found, key=lambda each: str(each["Name"]))

    def python(self, service: str, code: str) -> str:
        """What a program says that runs inside a service's first container."""
        return self.compose("exec", "-T", service, "python3", "-c", code).strip()

    def crash(self, container: str) -> None:
        """Kill all that runs in it, from inside, where Docker sees no wish of anybody's."""
        code = "import os, signal; os.kill(-1, signal.SIGKILL)"
        subprocess.run(["docker", "exec", container, "python3", "-c", code], check=False)

    def history(self) -> list[dict[str, Any]]:
        """The rows of the database, as the operator gets them."""
        found = self.compose(
            "exec", "-T", "worker", "minivault", "history", "--json", "--limit", "100000"
        )
        rows: list[dict[str, Any]] = json.loads(found)
        return rows

    def password(self, name: str) -> str:
        return self.compose("exec", "-T", "dashboard", "cat", f"/run/passwords/{name}").strip()

    def wait_until_healthy(self, seconds: float = 120) -> None:
        """Until all that goes on running says that it is well."""
        until(
            lambda: all(
                each["State"].get("Health", {}).get("Status") == "healthy"
                for each in self.containers()
                if each["HostConfig"]["RestartPolicy"]["Name"] != "no"
            ),
            seconds=seconds,
            what="health",
        )


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def _docker_socket() -> str:
    context = json.loads(docker("context", "inspect"))[0]
    host = os.environ.get("DOCKER_HOST") or str(context["Endpoints"]["docker"]["Host"])
    return host.removeprefix("unix://")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
