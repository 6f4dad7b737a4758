"""Prometheus scrapes every process, and every panel of the dashboard has something to show.

Grafana itself is not started: what it would ask is asked of Prometheus.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.compose.stack import ROOT, ComposeStack, docker
from tests.support.poll import until

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "minivault.json"
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}
RECOVERIES = "minivault_recoveries_total"
PROMETHEUS = "http://127.0.0.1:9090/api/v1/"


@pytest.fixture(scope="module")
def monitored(stack: ComposeStack) -> Iterator[ComposeStack]:
    stack.up("--scale", "worker=2")
    stack.compose("--profile", "monitoring", "up", "--wait", "prometheus")
    yield stack
    stack.compose("--profile", "monitoring", "rm", "--stop", "--force", "prometheus")


def test_both_kinds_of_process_are_scraped_and_the_rules_are_read(
    monitored: ComposeStack,
) -> None:
    until(
        lambda: (
            sorted(
                target["labels"]["job"]
                for target in ask(monitored, "targets")["activeTargets"]
                if target["health"] == "up"
            )
            == ["api", "worker", "worker"]
        ),
        seconds=60,
        what="targets",
    )
    (group,) = ask(monitored, "rules")["groups"]
    assert len(group["rules"]) > 5
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}


def test_every_panel_of_the_dashboard_has_data(monitored: ComposeStack) -> None:
    with httpx.Client(base_url=monitored.url, timeout=60) as client:
        answer_refuse_and_expire(monitored, client)
        for title, query in queries():
            if RECOVERIES not in query:
                assert_data(monitored, title, query)
        let_workers_die(monitored, client)
        for title, query in queries():
            if RECOVERIES in query:
                assert_data(monitored, title, query)


def answer_refuse_and_expire(stack: ComposeStack, client: httpx.Client) -> None:
    stack.compose("stop", "worker")
    late = submit(client, ttl=1)
    stack.up("--scale", "worker=2")
    until(lambda: client.get(f"/jobs/{late}").json()["status"] == "failed", what="its end")
    client.post("/generate", json={"prompt": "Hello", "max_tokens": 8}).raise_for_status()
    assert client.get("/jobs/nothing").status_code == 404


def let_workers_die(stack: ComposeStack, client: httpx.Client) -> None:
    job = submit(client, max_tokens=500)
    until(lambda: client.get(f"/jobs/{job}").json()["response"], seconds=30, what="tokens")
    for container in stack.containers("worker"):
        docker("kill", container["Id"])
    stack.wait_until_healthy()


def assert_data(stack: ComposeStack, title: str, query: str) -> None:
    path = f"query?query={quote(query)}"
    until(lambda: ask(stack, path)["result"], seconds=60, what=f"data in {title!r} ({query})")


def submit(client: httpx.Client, **fields: int) -> str:
    body = {"prompt": "Count to a thousand.", "raw": True, **fields}
    answer = client.post("/jobs", json=body)
    answer.raise_for_status()
    return str(answer.json()["id"])


def queries() -> Iterator[tuple[str, str]]:
    found = 0
    for panel in panels(json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]):
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            found += 1
            yield panel["title"], query
    assert found > 20


def panels(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in found:
        yield panel
        yield from panels(panel.get("panels", []))


def ask(stack: ComposeStack, path: str) -> dict[str, Any]:
    answer = stack.compose("exec", "-T", "prometheus", "wget", "-qO-", PROMETHEUS + path)
    document: dict[str, Any] = json.loads(answer)
    assert document["status"] == "success"
    data: dict[str, Any] = document["data"]
    return data
