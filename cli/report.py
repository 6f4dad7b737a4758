"""What commands that run unattended say: to people as lines, to machines as log lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

import typer

from cli import console
from cli.exit_codes import exit_code
from shared.errors import MiniVaultError
from shared.logging import configure, get_logger
from shared.settings import Settings

Report: TypeAlias = Callable[[str], None]


@contextmanager
def reporting(settings: Settings, process: str) -> Iterator[Report]:
    """Yields what tells a line. In JSON, the error that ends the command is one like any other."""
    if settings.log_format != "json":
        yield _to_people
        return
    configure(settings, process)
    try:
        yield get_logger().info
    except MiniVaultError as error:
        get_logger().critical("stopped", code=error.code, reason=error.detail)
        raise typer.Exit(exit_code(error)) from None


def note(settings: Settings) -> Report:
    """As `reporting`, within one, for lines that a person needs no time of."""
    return get_logger().info if settings.log_format == "json" else console.note


def _to_people(line: str) -> None:
    """Never raises: a terminal that is gone must not keep the children from being stopped."""
    with suppress(OSError):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()
