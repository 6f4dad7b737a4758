"""Commands about the model catalog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from cli import console
from cli.commands.ask import Url
from shared.catalog import HubSource, PathSource, add_model, load_catalog
from shared.configuration import load_settings
from shared.errors import CatalogError
from shared.logging import get_logger
from shared.settings import Settings

app: Final = typer.Typer(help="The models that can be served.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name from the catalog of the service.")]


@app.command("list")
def list_models(
    *, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Every model of the catalog, and whether it is on this machine."""
    settings = load_settings()
    from worker import model_files  # noqa: PLC0415

    rows = [
        {
            "name": spec.name,
            "source": str(spec.source),
            "ready": model_files.is_ready(spec, settings),
            "served": spec.name in settings.models,
        }
        for spec in load_catalog(settings).values()
    ]
    if as_json:
        console.say_json(rows)
        return
    console.table(
        ("model", "on this machine", "served", "source"),
        [
            (
                str(row["name"]),
                "ready" if row["ready"] else "not fetched",
                "yes" if row["served"] else "no",
                str(row["source"]),
            )
            for row in rows
        ],
    )


@app.command()
def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Catalog names. None: those that MINIVAULT_MODELS names."),
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is there.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Have a worker of the service do it.")
    ] = False,
    url: Url = None,
) -> None:
    """Fetch models and convert them for serving, here or where a worker is."""
    settings = load_settings()
    if remote:
        _pull_remotely(settings, names or settings.models, url, force=force)
        return
    from cli import extras, kernels  # noqa: PLC0415
    from cli.progress import ModelProgress  # noqa: PLC0415
    from cli.report import note, reporting  # noqa: PLC0415
    from worker import model_files  # noqa: PLC0415

    say = get_logger().info if settings.log_format == "json" else console.say
    with reporting(settings, "models"):
        extras.require("worker", "torch", "transformers")
        catalog = load_catalog(settings)
        settings.prepare_data_dir()
        building = kernels.begin(settings)
        for spec in [catalog[name] for name in names or settings.models]:
            with ModelProgress(spec.name, note(settings)) as progress:
                folder = model_files.ensure_model(spec, settings, progress, force=force)
            model_files.verify(spec, settings)
            say(f"{spec.name} is ready in {folder}")
        kernels.finish(building, say, note(settings))


@app.command()
def load(name: Name, *, url: Url = None) -> None:
    """Have a worker take a model into its memory; requests may name it from then on."""
    _change("POST", name, "load", url, "loaded")


@app.command()
def unload(
    name: Name,
    *,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Requests may no longer name it.")
    ] = False,
    url: Url = None,
) -> None:
    """Have all workers put a model out of memory once its jobs there have ended."""
    query = {"withdraw": "true"} if withdraw else {}
    _change("POST", name, "unload", url, "withdrawn" if withdraw else "unloaded", **query)


@app.command()
def pin(name: Name, *, url: Url = None) -> None:
    """Have every worker keep a model in memory."""
    _change("PUT", name, "pin", url, "pinned")


@app.command()
def unpin(name: Name, *, url: Url = None) -> None:
    """Let a model go again once its place is needed."""
    _change("DELETE", name, "pin", url, "no longer pinned")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What clients will call it.")],
    source: Annotated[
        str, typer.Argument(help="A folder with safetensors, a .gguf file, or a hub repository.")
    ],
    *,
    revision: Annotated[
        str, typer.Option(help="Branch, tag or commit of a hub repository.")
    ] = "main",
) -> None:
    """Add a model to the catalog (models.toml in the data folder)."""
    settings = load_settings()
    settings.prepare_data_dir()
    spec = add_model(settings, name, _source(source, revision))
    console.say(f"Added {spec.name}: {spec.source}")
    console.note(
        f"Fetch it with `minivault models pull {spec.name}`, then name it in MINIVAULT_MODELS, or "
        f"have a running service take it in with `minivault models load {spec.name}`."
    )


def _change(
    method: str, name: str, action: str, url: str | None, outcome: str, **query: str
) -> None:
    from cli.client import service_url  # noqa: PLC0415
    from cli.model_admin import ModelAdmin  # noqa: PLC0415

    with ModelAdmin(url or service_url(load_settings())) as admin:
        admin.change(method, name, action, **query)
    console.say(f"{name} is {outcome}.")


def _pull_remotely(
    settings: Settings, names: Sequence[str], url: str | None, *, force: bool
) -> None:
    from cli.client import service_url  # noqa: PLC0415
    from cli.model_admin import ModelAdmin  # noqa: PLC0415
    from cli.progress import ModelProgress  # noqa: PLC0415
    from cli.report import note  # noqa: PLC0415

    with ModelAdmin(url or service_url(settings)) as admin:
        for name in names:
            with ModelProgress(name, note(settings)) as progress:
                for state in admin.pull(name, force=force):
                    progress(state["stage"], state["done"], state["total"])
            console.say(f"{name} is ready")


def _source(text: str, revision: str) -> HubSource | PathSource:
    path = Path(text).expanduser()
    if path.exists():
        return PathSource(str(path.absolute()))
    if text.endswith(".gguf") or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise CatalogError(
            f"There is no file or folder {text}, and a hub repository is written owner/name."
        )
    return HubSource(text, revision)
