"""For the imports that a process begins with."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Make what lives as long as the process; nothing of it is looked through for garbage.

    Not meanwhile, again and again while it grows, which is a fifth of the time that importing
    takes, and not later either: that would stop all threads for a tenth of a second, and have
    forks copy the pages that they share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
