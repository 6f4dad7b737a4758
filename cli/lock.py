"""One stack to a data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import StackError
from shared.settings import PREFIX, Settings


@contextmanager
def stack_lock(settings: Settings) -> Iterator[None]:
    """Hold the data folder. The kernel lets go of it however this process ends.

    Raises:
        StackError: another stack holds it.
    """
    with (settings.data_dir / "minivault.lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StackError(
                f"A stack already runs on {settings.data_dir} (pid {file.read().strip()}). "
                f"Stop it, or set {PREFIX}DATA_DIR to another folder."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
