"""Commands that keep running: the stack, its processes, the dashboard."""

from __future__ import annotations

import sys

from shared.settings import load_settings


def up() -> None:
    """Start everything and keep it running until Ctrl-C."""
    settings = load_settings()
    from cli.stack import up  # noqa: PLC0415

    up(settings)


def api() -> None:
    """Run an API process alone."""
    settings = load_settings()
    from cli import extras  # noqa: PLC0415

    extras.require("api", "fastapi", "uvicorn")
    from api.main import run  # noqa: PLC0415

    run(settings)


def worker() -> None:
    """Run a worker alone."""
    settings = load_settings()
    from cli import console, extras  # noqa: PLC0415
    from cli.supervisor import FATAL  # noqa: PLC0415
    from shared.errors import ModelUnavailableError  # noqa: PLC0415

    extras.require("worker", "torch", "transformers")
    from worker.main import run  # noqa: PLC0415

    try:
        run(settings)
    except ModelUnavailableError as error:
        # A worker without its model: the supervisor must not start it over and over.
        console.fail(str(error))
        sys.exit(FATAL)


def dashboard() -> None:
    """Show queues, workers and jobs in a browser (rq-dashboard), on this machine only."""
    settings = load_settings()
    from cli import extras  # noqa: PLC0415

    extras.require("dashboard", "rq_dashboard", "six")
    from cli.dashboard import serve  # noqa: PLC0415

    serve(settings)
