"""Commands about API keys. They change the database itself: whoever may do that is the operator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import console
from shared.configuration import load_settings
from shared.settings import RATE

if TYPE_CHECKING:
    from shared.keybook import KeyBook
    from shared.keys import Allowance, Token

app: Final = typer.Typer(help="API keys, and what each may do.", no_args_is_help=True)

_LIFE: Final = re.compile(r"([1-9]\d{0,4})([hd])")
_MOST: Final = 2**53 - 1

KeyId = Annotated[str, typer.Argument(metavar="ID", help="As `minivault keys list` prints it.")]
Name = Annotated[str, typer.Argument(help="For whom it is; people read it, programs don't.")]
Expires = Annotated[str | None, typer.Option(help="When it ends: 12h, 90d, or a day: 2030-12-31.")]
Rate = Annotated[str | None, typer.Option(help="Requests: 60/minute, or off for no limit.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Jobs that may wait and run.")]
DailyTokens = Annotated[
    int | None, typer.Option(min=1, max=_MOST, help="Tokens in a day of UTC, prompts included.")
]
Priority = Annotated[int | None, typer.Option(min=0, max=9, help="Largest that it may ask for.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="One that it may use; may be repeated.")
]
Admin = Annotated[bool, typer.Option("--admin", help="May see and end everybody's jobs.")]
Grace = Annotated[int, typer.Option(min=0, max=_MOST, help="Seconds that the old one goes on.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def create(
    name: Name,
    *,
    expires: Expires = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    daily_tokens: DailyTokens = None,
    priority: Priority = None,
    models: Models = None,
    admin: Admin = False,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once. What is not given is as the settings have it.

    From the first key on, every request needs one.
    """
    from shared.keys import Allowance  # noqa: PLC0415

    if not (name.strip() and name.isprintable()):
        raise typer.BadParameter("A name has letters, and is one line.")
    allowance = Allowance(
        rate=_rate(rate),
        max_in_flight=concurrency,
        daily_tokens=daily_tokens,
        max_priority=priority,
        models=_models(models),
    )
    with _book() as book:
        token = book.create(name, allowance, admin=admin, expires_at=_end(expires))
    _show(token, as_json=as_json)


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """Every key that was made. None of them is told: they are not known."""
    with _book() as book:
        found = book.all()
    from shared.keys import now  # noqa: PLC0415

    at = now()
    if as_json:
        import msgspec  # noqa: PLC0415

        secret = {"digest", "former_digest"}
        for key in (rows := [msgspec.to_builtins(key) | {"state": key.state(at)} for key in found]):
            for field in secret:
                del key[field]
        console.say_json(rows)
        return
    console.table(
        ("id", "name", "state", "made", "ends", "may"),
        [
            (
                key.id,
                key.name,
                key.state(at),
                key.created_at[:10],
                (key.expires_at or "never")[:10],
                ", ".join((["admin"] if key.admin else []) + _told(key.allowance)),
            )
            for key in found
        ],
    )


@app.command()
def revoke(ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Keys.")]) -> None:
    """End keys, at once and for good. Their jobs go on."""
    with _book() as book:
        for key_id in ids:
            book.revoke(key_id)
            console.say(key_id)


@app.command()
def rotate(key_id: KeyId, *, grace: Grace = 0, as_json: AsJson = False) -> None:
    """Give a key a new secret, and print it, this once. Its jobs and its limits stay."""
    with _book() as book:
        token = book.rotate(key_id, grace=grace)
    _show(token, as_json=as_json)


@contextmanager
def _book() -> Iterator[KeyBook]:
    settings = load_settings()
    from shared.keybook import KeyBook  # noqa: PLC0415

    if settings.database_url is None:
        settings.prepare_data_dir()
    book = KeyBook.open(settings)
    try:
        yield book
    finally:
        book.close()


def _show(token: Token, *, as_json: bool) -> None:
    """The key alone on standard output, so that it can go into a file unseen."""
    if as_json:
        console.say_json({"id": token.id, "key": token.text})
        return
    console.say(token.text)
    console.note(f"This is key {token.id}. It is not kept: nobody can show it again.")


def _told(allowance: Allowance) -> list[str]:
    told = {
        "rate": allowance.rate,
        "concurrency": allowance.max_in_flight,
        "daily tokens": allowance.daily_tokens,
        "priority": allowance.max_priority,
        "models": None if allowance.models is None else " ".join(allowance.models),
    }
    return [f"{name} {value}" for name, value in told.items() if value is not None]


def _rate(text: str | None) -> str | None:
    if text is not None and text != "off" and not RATE.fullmatch(text):
        raise typer.BadParameter("Write it like 60/minute, or off.", param_hint="--rate")
    return text


def _models(names: list[str] | None) -> tuple[str, ...] | None:
    if not names:
        return None
    for name in names:
        if not name or "," in name or not name.isprintable():
            raise typer.BadParameter("That is no model's name.", param_hint="--model")
    return tuple(dict.fromkeys(names))


def _end(text: str | None) -> str | None:
    from shared.keys import time_text  # noqa: PLC0415

    if text is None:
        return None
    if match := _LIFE.fullmatch(text):
        unit = "hours" if match[2] == "h" else "days"
        end = datetime.now(UTC) + timedelta(**{unit: int(match[1])})
    else:
        try:
            end = datetime.fromisoformat(text)
        except ValueError:
            raise typer.BadParameter(
                "Write it like 12h, 90d or 2030-12-31.", param_hint="--expires"
            ) from None
        end = end if end.tzinfo else end.replace(tzinfo=UTC)
    if end <= datetime.now(UTC):
        raise typer.BadParameter("That is over.", param_hint="--expires")
    return time_text(end)
