"""What `minivault up` runs, written down for `minivault status`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil

from shared.settings import Settings


class ProcessState(msgspec.Struct, frozen=True):
    role: str
    """api, worker or redis."""
    name: str
    pid: int | None
    state: str
    """running, restarting, stopped."""
    restarts: int = 0
    started_at: float | None = None
    """Seconds since the epoch, by the kernel's account: tells a process from a reused pid."""

    def checked(self) -> ProcessState:
        """The state as it is now: a process noted as running may be gone."""
        if self.state == "running" and not (self.pid and _is_alive(self.pid, self.started_at)):
            return msgspec.structs.replace(self, state="dead")
        return self


class StackState(msgspec.Struct, frozen=True):
    pid: int
    """Of the supervisor."""
    url: str
    processes: tuple[ProcessState, ...]


def write(settings: Settings, state: StackState) -> None:
    path = _path(settings)
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(state))
    new.replace(path)


def read(settings: Settings) -> StackState | None:
    """What was noted last, or None if no stack was started or it was stopped."""
    try:
        return msgspec.json.decode(_path(settings).read_bytes(), type=StackState)
    except (OSError, msgspec.DecodeError):
        return None


def remove(settings: Settings) -> None:
    _path(settings).unlink(missing_ok=True)


def start_time(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _is_alive(pid: int, started_at: float | None) -> bool:
    try:
        process = psutil.Process(pid)
        # An orphan's zombie stays where there is no init to reap it, as in many containers.
        return process.create_time() == started_at and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _path(settings: Settings) -> Path:
    return settings.data_dir / "run.json"
