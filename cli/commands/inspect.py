"""Commands that look at what is and what was."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import console
from shared.configuration import load_settings

NOT_READY = 1


def status(
    *, as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False
) -> None:
    """Processes, queues and models. The exit code is 0 if the service is ready, else 1."""
    settings = load_settings()
    import msgspec  # noqa: PLC0415

    from cli import status as report  # noqa: PLC0415

    found = report.collect(settings)
    if as_json:
        console.say_json(msgspec.to_builtins(found))
    else:
        report.show(found)
    if not found.ready:
        raise typer.Exit(NOT_READY)
