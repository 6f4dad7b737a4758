"""A page of another site follows a job with the browser's own EventSource, through crashes."""

import json
import os
import queue
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.poll import until
from tests.support.stack import Stack, running_stack
from tests.support.stand_in import Reply, Seen, serving

BODY = {"prompt": "Tell me a story about a fox.", "temperature": 0, "max_tokens": 200}

PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
const api = new URLSearchParams(location.search).get("api");
const body = BODY;
const report = (what) => fetch("/report", {method: "POST", body: JSON.stringify(what)});
const headers = {"Content-Type": "application/json", "Idempotency-Key": "page"};
try {
  const submitted = await fetch(
    api + "/jobs", {method: "POST", headers, body: JSON.stringify(body)});
  const path = submitted.headers.get("Location");
  const source = new EventSource(api + path + "/events");
  const events = [], opened = [];
  let losses = 0;
  source.onopen = () => opened.push(events.length);
  for (const name of ["queued", "loading", "started", "token", "resumed", "done"])
    source.addEventListener(name, (event) => {
      events.push({name, id: event.lastEventId, data: JSON.parse(event.data)});
      if (events.length === 10) report({ten: true});
    });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) report({path, events, opened, losses});
    else losses += 1;
  };
} catch (error) {
  report({refused: error.name});
}
</script>""".replace("BODY", json.dumps(BODY))


class Site:
    """Serves the page and hears what it has to say."""

    def __init__(self) -> None:
        self.url = ""
        self._reports: queue.Queue[dict[str, Any]] = queue.Queue()

    def __call__(self, seen: Seen) -> Reply:
        if seen.path == "/report":
            self._reports.put(json.loads(seen.body))
            return Reply(204, {"Content-Length": "0"})
        return Reply(headers={"Content-Type": "text/html"}, body=PAGE.encode())

    def report(self) -> dict[str, Any]:
        return self._reports.get(timeout=90)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with serving(site) as site.url:
        yield site


@pytest.fixture(scope="module")
def stack(short_tmp: Path, site: Site) -> Iterator[Stack]:
    with running_stack(short_tmp / "browser", CORS_ORIGINS=site.url) as stack:
        yield stack


@contextmanager
def opened(browser: str, page: str, profile: Path) -> Iterator[None]:
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--remote-debugging-port=0",  # else it closes as soon as the page is there
        f"--user-data-dir={profile}",
        page,
    ]
    with (profile / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(timeout=10)


def test_it_resumes_by_itself_and_ends(
    browser: str, stack: Stack, site: Site, tmp_path: Path
) -> None:
    expected = httpx.post(f"{stack.url}/generate", json=BODY, timeout=120).json()["response"]
    with opened(browser, f"{site.url}/?api={stack.url}", tmp_path):
        assert site.report() == {"ten": True}, "the first tokens"
        os.kill(stack.pid("api"), signal.SIGKILL)
        until(lambda: stack.pid("api"), what="another API")
        stack.strike("worker")
        seen = site.report()  # EventSource has given up: the answer to its last question was 204
    events = seen["events"]
    assert [event["id"] for event in events if event["id"]] == [
        str(number) for number in range(1, len(events) + 1)
    ], stack.logs()
    assert "".join(event["data"].get("text", "") for event in events) == expected
    assert events[-1]["name"] == "done"
    # It was open twice, lost once amid the answer, and asked once more behind the end.
    assert len(seen["opened"]) == 2
    assert 0 < seen["opened"][1] < len(events)
    job = httpx.get(stack.url + seen["path"]).json()
    assert (job["status"], job["response"]) == ("done", expected)


def test_a_page_that_was_not_let_in_reads_nothing(
    browser: str, stack: Stack, tmp_path: Path
) -> None:
    other = Site()
    with serving(other) as other.url, opened(browser, f"{other.url}/?api={stack.url}", tmp_path):
        assert other.report() == {"refused": "TypeError"}
