"""Output: colours and boxes on a terminal, plain lines when piped."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# What a model writes may hold escape sequences; a terminal must not obey them.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def stdout() -> Console:
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    return Console(highlight=False, soft_wrap=True, stderr=True)


def say(text: str) -> None:
    """A line of result, at once also where output is buffered: somebody may wait for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line about what is going on, apart from the result."""
    sys.stderr.write(text + "\n")


def fail(text: str) -> None:
    stderr().print(Text(text, style="bold red"))


def say_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def say_line(value: Any) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def write(text: str) -> None:
    """Generated text as it comes, without a line end of our own."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text without the characters that steer a terminal."""
    return text.translate(_CONTROLS)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for eyes; tab-separated lines, without a header, for programs."""
    console = stdout()
    if not console.is_terminal:
        for row in rows:
            say("\t".join(" ".join(cell.split()) for cell in row))
        return
    view = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        view.add_row(*(Text(printable(cell)) for cell in row))
    console.print(view, soft_wrap=False)
