"""What a harness does before anything else."""

import os
import signal
import tempfile
from pathlib import Path

from shared.settings import PREFIX


def folder_of_its_own(name: str) -> Path:
    """Everything that is started lies there. The path is short: a Unix socket lies in it too.

    From here on the developer's own settings are forgotten, and SIGTERM is an interrupt, after
    which no process is left behind.
    """
    for variable in [variable for variable in os.environ if variable.startswith(PREFIX)]:
        del os.environ[variable]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return Path(tempfile.mkdtemp(prefix=f"mv-{name}-"))
