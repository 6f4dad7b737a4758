"""`python -m worker.engine.native`: compile all levels of this architecture, for an image."""

from __future__ import annotations

from worker.engine.native.isa import levels
from worker.engine.native.kernels import PREBUILT, make


def main() -> None:
    PREBUILT.mkdir(exist_ok=True)
    for level in levels():
        print(make(level, PREBUILT).name)  # noqa: T201


if __name__ == "__main__":
    main()
