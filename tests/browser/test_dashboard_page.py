"""rq-dashboard's pages as a person sees them, in a headless Chromium.

Run by `make test-browser`: a browser is the one thing that no package registry of Python's has.
"""

import subprocess
from pathlib import Path

from shared.settings import Settings
from tests.support.dashboard import PROMPT, busy_dashboard


def page(browser: str, url: str, profile: Path) -> str:
    """The page's DOM, after its scripts have fetched and filled in the data."""
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=8000",
        f"--user-data-dir={profile}",
        "--dump-dom",
        url,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def test_a_running_job_and_its_worker(browser: str, settings: Settings, tmp_path: Path) -> None:
    with busy_dashboard(settings) as shown:
        workers = page(browser, f"{shown.url}/0/view/workers", tmp_path)
        assert shown.worker in workers
        assert shown.queue in workers
        assert shown.job in workers, "the worker's current job"
        started = page(browser, f"{shown.url}/0/view/jobs/{shown.queue}/started/8/asc/1", tmp_path)
        assert shown.job in started
        queues = page(browser, f"{shown.url}/0/view/queues", tmp_path)
        assert shown.queue in queues
        assert PROMPT.strip() not in workers + started + queues
