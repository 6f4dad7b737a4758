"""One stack to a data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from shared.errors import StackError
from shared.settings import PREFIX, Settings


@contextmanager
def stack_lock(settings: Settings) -> Iterator[None]:
    """Be the folder's supervisor. The kernel lets go of it however this process ends.

    Raises:
        StackError: another supervisor lives.
    """
    with (settings.data_dir / "minivault.lock").open("a+", encoding="ascii") as file:
        if not try_lock(file):
            file.seek(0)
            raise StackError(
                f"A stack already runs on {settings.data_dir} (pid {file.read().strip()}). "
                f"Stop it, or set {PREFIX}DATA_DIR to another folder."
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class ChildrenLock:
    """Inherited by each child of a supervisor, so that it is free when the last of them is gone.

    Use it as a context manager.
    """

    def __init__(self, settings: Settings) -> None:
        self.path: Path = settings.data_dir / "children.lock"
        self._file: TextIO = self.path.open("a", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()

    def acquire(self) -> bool:
        """False while a child of an earlier supervisor lives."""
        return try_lock(self._file)

    def fileno(self) -> int:
        """The descriptor that children inherit."""
        return self._file.fileno()


def try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
