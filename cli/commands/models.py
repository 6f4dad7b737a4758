"""Commands about the model catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from cli import console
from shared.catalog import HubSource, PathSource, add_model, load_catalog
from shared.configuration import load_settings
from shared.errors import CatalogError
from shared.logging import get_logger

app: Final = typer.Typer(help="The models that can be served.", no_args_is_help=True)


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
) -> None:
    """Fetch models and convert them for serving."""
    settings = load_settings()
    from cli import extras  # noqa: PLC0415
    from cli.progress import ModelProgress  # noqa: PLC0415
    from cli.report import note, reporting  # noqa: PLC0415
    from worker import model_files  # noqa: PLC0415

    say = get_logger().info if settings.log_format == "json" else console.say
    with reporting(settings, "models"):
        extras.require("worker", "torch", "transformers")
        catalog = load_catalog(settings)
        settings.prepare_data_dir()
        for spec in [catalog[name] for name in names or settings.models]:
            with ModelProgress(spec.name, note(settings)) as progress:
                folder = model_files.ensure_model(spec, settings, progress, force=force)
            model_files.verify(spec, settings)
            say(f"{spec.name} is ready in {folder}")


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
        f"Fetch it with `minivault models pull {spec.name}`, then name it in MINIVAULT_MODELS."
    )


def _source(text: str, revision: str) -> HubSource | PathSource:
    path = Path(text).expanduser()
    if path.exists():
        return PathSource(str(path.absolute()))
    if text.endswith(".gguf") or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise CatalogError(
            f"There is no file or folder {text}, and a hub repository is written owner/name."
        )
    return HubSource(text, revision)
