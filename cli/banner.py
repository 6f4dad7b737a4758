"""What `minivault up` shows once the service is ready."""

from __future__ import annotations

import json
from typing import Final

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli import console
from shared.logging import get_logger
from shared.settings import Settings

_EXAMPLE: Final = {"prompt": "What is the capital of England?", "temperature": 0}


def show_banner(settings: Settings, url: str) -> None:
    facts = {
        "API": url,
        "Docs": f"{url}/docs",
        "Models": ", ".join(settings.models),
        "Workers": str(settings.workers),
        "Logs": str(settings.logs_dir),
        "Queues": f"minivault dashboard  (http://127.0.0.1:{settings.dashboard_port})",
        "Stop": "Ctrl-C",
    }
    if settings.log_format == "json":
        get_logger().info("MiniVault is ready", url=url, models=settings.models)
        return
    out = console.stdout()
    if out.is_terminal:
        view = Table.grid(padding=(0, 2))
        for label, value in facts.items():
            view.add_row(Text(label, style="bold"), Text(value))
        out.print(Panel.fit(view, title="MiniVault is ready", border_style="green"))
    else:
        console.say("MiniVault is ready")
        for label, value in facts.items():
            console.say(f"{label}: {value}")
    # Outside the box and unwrapped, so that it can be pasted.
    console.say(
        f"\nTry it:\n  curl -N {url}/generate/stream -H 'Accept: text/plain' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(_EXAMPLE)}'\n"
    )
