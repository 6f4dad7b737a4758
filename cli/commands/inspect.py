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


def history(
    *,
    search: Annotated[
        str | None, typer.Option(help="Only those whose prompt or response has this text.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Whole rows as JSON.")] = False,
) -> None:
    """Prompts and responses of the past."""
    settings = load_settings()
    import msgspec  # noqa: PLC0415

    from shared.store import Store  # noqa: PLC0415

    settings.prepare_data_dir()
    store = Store.open(settings)
    try:
        rows = store.recent(limit, search)
    finally:
        store.close()
    if as_json:
        console.say_json([msgspec.to_builtins(row) for row in rows])
        return
    console.table(
        ("when", "model", "end", "tokens", "prompt", "response"),
        [
            (
                row.created_at[:19].replace("T", " "),
                row.model,
                row.finish_reason,
                str(row.completion_tokens),
                _shorten(row.prompt),
                _shorten(row.response),
            )
            for row in rows
        ],
    )


def _shorten(text: str, width: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
