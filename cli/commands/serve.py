"""Commands that keep running: the stack, its processes, the dashboard."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cli import leash
from shared.configuration import load_settings
from shared.imports import without_collections
from shared.redis import START_SECONDS

Supervised = Annotated[
    bool, typer.Option("--supervised", hidden=True, help="Stop when standard input ends.")
]

MetricsPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Instead of MINIVAULT_METRICS_PORT.")
]


def up() -> None:
    """Start everything and keep it running until Ctrl-C."""
    settings = load_settings()
    from cli.report import reporting  # noqa: PLC0415
    from cli.stack import up  # noqa: PLC0415

    with reporting(settings, "up") as report:
        up(settings, report)


def api(*, supervised: Supervised = False) -> None:
    """Run an API process alone."""
    if supervised:
        leash.stop_with_supervisor()
    settings = load_settings()
    from cli import extras  # noqa: PLC0415
    from cli.report import reporting  # noqa: PLC0415

    with reporting(settings, "api"):
        extras.require("api", "fastapi", "uvicorn")
        with without_collections():
            from api.main import run  # noqa: PLC0415

        run(settings, patience=START_SECONDS if supervised else 0.0)


def worker(*, supervised: Supervised = False, metrics_port: MetricsPort = None) -> None:
    """Run a worker alone."""
    if supervised:
        leash.stop_with_supervisor()
    settings = load_settings(metrics_port=metrics_port)
    from cli import extras  # noqa: PLC0415
    from cli.report import reporting  # noqa: PLC0415

    with reporting(settings, "worker"):
        extras.require("worker", "torch", "transformers")
        from worker.main import run  # noqa: PLC0415

        run(settings, patience=START_SECONDS if supervised else 0.0)
    # All is written and closed. To take an interpreter apart that holds torch lasts a second,
    # in each of the worker's processes, while others wait for their end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def dashboard() -> None:
    """Show queues, workers and jobs in a browser (rq-dashboard)."""
    settings = load_settings()
    from cli import extras  # noqa: PLC0415
    from cli.report import note, reporting  # noqa: PLC0415

    with reporting(settings, "dashboard"):
        extras.require("dashboard", "rq_dashboard", "six", "waitress")
        from cli.dashboard import serve  # noqa: PLC0415

        serve(settings, note(settings))
