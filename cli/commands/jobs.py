"""Commands about jobs: all of them for the operator, one for whoever has its id."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from cli import console
from cli.commands.ask import AsJson, Url, stream_printer
from shared.configuration import load_settings

app: Final = typer.Typer(help="Jobs that wait, run or failed.", no_args_is_help=True)

NOT_ALL_DONE: Final = 1

JobId = Annotated[str, typer.Argument(metavar="ID", help="As `minivault submit` prints it.")]


@app.command("list")
def list_jobs(
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Jobs that are not over, and those that failed."""
    settings = load_settings()
    import msgspec  # noqa: PLC0415

    from cli.books import Books  # noqa: PLC0415
    from shared.redis import connect, translate_errors  # noqa: PLC0415

    with translate_errors(settings), connect(settings, "jobs") as redis:
        books = Books(redis)
        found = [*([] if failed else books.unfinished()), *books.failed()]
    if as_json:
        console.say_json([msgspec.to_builtins(each) for each in found])
        return
    console.table(
        ("job", "model", "state", "age", "note"),
        [
            (
                each.id,
                each.model or "?",
                each.state,
                _age(each.submitted_at),
                each.note + ("; a worker has died with it" if each.retried else ""),
            )
            for each in found
        ],
    )


@app.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Jobs.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every job that failed.")] = False,
) -> None:
    """Put failed jobs back: they go on where they failed. Exit code 1 if one had not failed."""
    if bool(ids) == everything:
        raise typer.BadParameter("Give the ids of jobs, or --all.")
    settings = load_settings()
    from cli.books import Books  # noqa: PLC0415
    from shared.failed import put_back  # noqa: PLC0415
    from shared.redis import connect, translate_errors  # noqa: PLC0415

    refused = False
    with translate_errors(settings), connect(settings, "jobs") as redis:
        for job_id in ids or [each.id for each in Books(redis).failed()]:
            if put_back(redis, job_id):
                console.say(job_id)
            else:
                refused = True
                console.note(f"{job_id} is no failed job.")
    if refused:
        raise typer.Exit(NOT_ALL_DONE)


@app.command()
def cancel(ids: list[str], *, url: Url = None, as_json: AsJson = False) -> None:
    """End jobs that wait or run; what they have said so far is kept."""
    settings = load_settings()
    from cli.client import Client, service_url  # noqa: PLC0415
    from cli.credentials import api_key  # noqa: PLC0415

    with Client(url or service_url(settings), api_key=api_key(settings)) as client:
        for job_id in ids:
            job = client.cancel(job_id)
            console.say_json(job.data) if as_json else console.say(f"{job.id}\t{job.status}")


@app.command()
def follow(job_id: JobId, *, url: Url = None, as_json: AsJson = False) -> None:
    """Print a job's response from its beginning, and as it comes."""
    settings = load_settings()
    from cli.client import Client, service_url  # noqa: PLC0415
    from cli.credentials import api_key  # noqa: PLC0415

    with (
        Client(url or service_url(settings), api_key=api_key(settings)) as client,
        stream_printer(as_json=as_json) as printer,
    ):
        for event in client.events(job_id):
            printer.show(event)
        printer.end()


def _age(since: float | None) -> str:
    if since is None:
        return "?"
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
