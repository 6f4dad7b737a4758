"""The past, as the database has it: looked at, exported, deleted, and what it used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import console
from cli.moments import moment
from shared.configuration import load_settings

if TYPE_CHECKING:
    from shared.interaction import Interaction
    from shared.store import Store

app: Final = typer.Typer(help="Prompts and responses of the past.")

_SHOWN: Final = 20
_NOT_FOUND: Final = 1

Key = Annotated[str | None, typer.Option(metavar="ID", help="Only those of this API key.")]
Model = Annotated[str | None, typer.Option(help="Only those of this model.")]
Since = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="WHEN", help="Made then or later: 2026-11-25, or 7d."),
]
Until = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="WHEN", help="Made before then.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@app.callback(invoke_without_command=True)
def history(
    context: typer.Context,
    *,
    search: Annotated[
        str | None,
        typer.Option(help='Words and "quoted phrases" that prompt or response have to have.'),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"How many, newest first.  [default: {_SHOWN}; --jsonl: all]"),
    ] = None,
    key: Key = None,
    model: Model = None,
    status: Annotated[
        str | None, typer.Option(help="Only those that ended so: done, failed, cancelled.")
    ] = None,
    since: Since = None,
    until: Until = None,
    as_json: Annotated[bool, typer.Option("--json", help="Whole rows as JSON.")] = False,
    as_lines: Annotated[
        bool, typer.Option("--jsonl", help="Whole rows, a line of JSON each: an export.")
    ] = False,
) -> None:
    """Prompts and responses of the past."""
    if context.invoked_subcommand is not None:
        return
    import msgspec  # noqa: PLC0415

    from shared.history import Filter  # noqa: PLC0415

    wanted = Filter(
        search=search or "", key=key, model=model, status=status, since=since, until=until
    )
    with _store() as store:
        if as_lines:
            for row in store.rows(wanted, limit=limit):
                console.say_line(msgspec.to_builtins(row))
            return
        rows = list(store.rows(wanted, limit=limit or _SHOWN))
    if as_json:
        console.say_json([msgspec.to_builtins(row) for row in rows])
    else:
        _show(rows)


@app.command()
def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Jobs.")] = None,
    *,
    key: Annotated[
        str | None, typer.Option(metavar="ID", help="All of this API key; '': those of none.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="WHEN", help="All made before: 2026-11-25, or 90d."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete interactions by id, by key or by age. What they used stays counted."""
    if not ids and key is None and until is None:
        raise typer.BadParameter("Say which: ids, --key or --until.")
    from shared.history import Filter  # noqa: PLC0415

    if not yes and not ids:
        typer.confirm("Delete for ever?", abort=True, err=True)
    with _store() as store:
        deleted = store.delete(Filter(key=key, until=until), ids=ids or None)
    console.say(f"Deleted {deleted}")
    if ids and not deleted:
        raise typer.Exit(_NOT_FOUND)


def usage(
    *,
    key: Key = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Requests and tokens by day, key and model; the newest day first."""
    import msgspec  # noqa: PLC0415

    from shared.usage import UsageFilter  # noqa: PLC0415

    wanted = UsageFilter(
        key=key, model=model, since=since and since.date(), until=until and until.date()
    )
    with _store() as store:
        rows = list(store.all_usage(wanted))
    if as_json:
        console.say_json([msgspec.to_builtins(row) for row in rows])
        return
    console.table(
        ("day", "key", "model", "requests", "prompt", "cached", "completion"),
        [tuple(str(value) for value in msgspec.structs.astuple(row)) for row in rows],
    )


@contextmanager
def _store() -> Iterator[Store]:
    settings = load_settings()
    from shared.store import Store  # noqa: PLC0415

    settings.prepare_data_dir()
    store = Store.open(settings)
    try:
        yield store
    finally:
        store.close()


def _show(rows: Sequence[Interaction]) -> None:
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
