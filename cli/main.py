"""The command line: what it offers, and how it ends when something is wrong."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Final

import typer

from cli import console
from cli.commands import ask, chat, history, inspect, jobs, keys, models, serve
from cli.exit_codes import INTERRUPTED, exit_code
from shared.errors import MiniVaultError

app: Final = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(serve.up)
app.command("generate", help="Answer a prompt; print the response when it is complete.")(ask.ask)
app.command("stream", help="Answer a prompt; print the response as it comes.")(ask.ask)
app.command("submit", help="Leave a prompt to be answered; print the job's id.")(ask.ask)
app.command()(chat.chat)
app.add_typer(jobs.app, name="jobs")
app.command()(inspect.status)
app.add_typer(history.app, name="history")
app.command()(history.usage)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.command()(serve.dashboard)
app.command()(serve.api)
app.command()(serve.worker)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer passes the option's value
    if wanted:
        console.say(f"minivault {version('minivault')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Text generation as durable jobs.

    Settings come from MINIVAULT_* variables and from .env in the current folder.
    """


def main() -> None:
    """Run a command; turn what went wrong into one line and an exit code."""
    app.rich_markup_mode = "rich" if sys.stdout.isatty() else None
    try:
        app()
    except MiniVaultError as error:
        console.fail(str(error))
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
