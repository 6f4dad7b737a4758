"""`python -m cli.passwords FOLDER`: the passwords of a stack of containers, unless they are there.

Readable by every user of the containers that are given the folder, and by nobody else.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Final

_NAMES: Final = ("redis", "dashboard", "grafana")


def main() -> None:
    folder = Path(sys.argv[1])
    for name in _NAMES:
        if not (folder / name).exists():
            new = folder / f".{name}.new"
            new.write_text(secrets.token_urlsafe(32), encoding="ascii")
            new.chmod(0o444)
            new.rename(folder / name)


if __name__ == "__main__":
    main()
