"""A live `minivault up` with keys in force, as a team meets it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.poll import until
from tests.support.stack import Stack, running_stack


@dataclass(frozen=True)
class Service:
    stack: Stack
    key: str

    def slow_key(self) -> str:
        """A new key that is allowed two requests a day."""
        return create_key(self.stack, "slow", "--rate", "2/day")

    @property
    def url(self) -> str:
        return f"{self.stack.url}/v1"

    def kill_worker_and_api(self) -> None:
        """SIGKILL, in mid-sentence."""
        for role in ("worker", "api"):
            self._kill(role)

    def _kill(self, role: str) -> None:
        pid = self.stack.pid(role)
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            each.kill()
        until(lambda: self.stack.pid(role) not in (0, pid), seconds=60, what=f"a new {role}")


def create_key(stack: Stack, name: str, *limits: str) -> str:
    created = stack.command("keys", "create", name, *limits)
    assert created.returncode == 0, created.stderr
    secret = re.search(r"mv-\S+", created.stdout)
    assert secret is not None, created.stdout
    return secret.group()


@pytest.fixture(scope="session")
def service(short_tmp: Path) -> Iterator[Service]:
    with running_stack(short_tmp / "sdks", RATE_LIMIT="1000/minute") as stack:
        yield Service(stack, key=create_key(stack, "team"))
