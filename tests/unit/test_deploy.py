"""What deploy/ says of the programs is what they are. Schemas: `make kubernetes-check`."""

import inspect
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry
from redis import Redis

from api.app import create_app
from api.metrics import ApiMetrics
from shared import names
from shared.configuration import load_settings
from shared.queue import rq_queue
from shared.settings import PREFIX, Settings
from worker.metrics import WorkerMetrics
from worker.monitor import Monitor
from worker.service import WorkerService

Manifest = dict[str, Any]

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def read(path: Path) -> Iterator[Manifest]:
    yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def literals() -> dict[str, str]:
    """Of the ConfigMap, with all components."""
    pairs = [
        pair
        for path in KUBERNETES.rglob("kustomization.yaml")
        for kustomization in read(path)
        for generator in kustomization.get("configMapGenerator", [])
        for pair in generator["literals"]
    ]
    return dict(pair.split("=", 1) for pair in pairs)


def pod(name: str) -> Manifest:
    (found,) = (
        manifest["spec"]["template"]["spec"]
        for manifest in read(KUBERNETES / "base" / f"{name}.yaml")
        if "template" in manifest.get("spec", {})
    )
    return dict(found)


def settings_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the program in the pod reads them."""
    (container,) = pod(name)["containers"]
    password = tmp_path / "password"
    password.write_text("secret")
    variables = literals()
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "resourceFieldRef" in source:
            variables[variable["name"]] = container["resources"]["requests"]["cpu"]
        elif "secretKeyRef" in source:
            variables[variable["name"]] = "sqlite://"
        else:
            variables[variable["name"]] = variable["value"]
    for variable, value in variables.items():
        is_file = variable.endswith("_PASSWORD_FILE")
        monkeypatch.setenv(variable, str(password) if is_file else value)
    return load_settings()


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("api", {"http": "port", "metrics": "metrics_port"}),
        ("worker", {"metrics": "metrics_port"}),
        ("dashboard", {"dashboard": "dashboard_port"}),
    ],
)
def test_pods_have_settings_that_programs_accept(
    name: str, ports: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(name, tmp_path, monkeypatch)
    spec = pod(name)
    assert spec["enableServiceLinks"] is False
    (container,) = spec["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        port: getattr(settings, field) for port, field in ports.items()
    }
    if name != "dashboard":  # it keeps nothing
        before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        waits = float(before[1]) if before else 0
        assert waits + settings.shutdown_grace + 10 <= spec["terminationGracePeriodSeconds"]


def test_the_containers_of_api_and_worker_share_the_database_and_only_that() -> None:
    (compose,) = read(DEPLOY.parent / "docker-compose.yml")
    api, worker = (compose["services"][name] for name in ("api", "worker"))
    assert {"data:/data:ro", "database:/database"} < set(api["volumes"])
    assert {"data:/data", "database:/database"} < set(worker["volumes"])
    addresses = {each["environment"]["MINIVAULT_DATABASE_URL"] for each in (api, worker)}
    assert addresses == {"${MINIVAULT_DATABASE_URL:-sqlite:////database/minivault.db}"}
    for image in ("api", "worker"):
        text = (DEPLOY.parent / f"Dockerfile.{image}").read_text(encoding="utf-8")
        assert "install -d -o 10001 -g 10001 /data /database" in text
        assert re.search(r"scripts/requirements.py .*\bpostgres\b", text)


def test_pods_of_api_and_worker_reach_the_database() -> None:
    for name in ("api", "worker"):
        (container,) = pod(name)["containers"]
        (source,) = [
            each["valueFrom"]
            for each in container["env"]
            if each["name"] == "MINIVAULT_DATABASE_URL"
        ]
        assert source == {"secretKeyRef": {"name": "minivault", "key": "database-url"}}
    policies = {
        each["metadata"]["name"]: each["spec"]
        for each in read(KUBERNETES / "base" / "network.yaml")
    }
    (reached,) = policies["minivault-database"]["podSelector"]["matchExpressions"]
    assert reached["values"] == ["api", "worker"]
    assert policies["minivault-database"]["egress"] == [{"ports": [{"port": 5432}]}]


def test_every_setting_named_is_one() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for path in DEPLOY.rglob("*.yaml"):
        found = set(re.findall(rf"{PREFIX}[A-Z]\w+", path.read_text(encoding="utf-8")))
        assert found <= known, path


def test_probes_ask_for_what_there_is(settings: Settings) -> None:
    routes = {route.path for route in iter_route_contexts(create_app(settings).routes)}
    assert probed("api") == {"/healthz", "/readyz"} <= routes
    service: Any = SimpleNamespace(metrics=WorkerMetrics(), ailment=str, hindrance=str)
    answers: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monitor = Monitor(listener, service)
        for path in sorted(probed("worker")):
            monitor._answer({"PATH_INFO": path}, lambda status, _: answers.append(status))
    assert answers == ["200 OK", "200 OK"]


def probed(name: str) -> set[str]:
    (container,) = pod(name)["containers"]
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    port = container["ports"][0]
    assert {probe["httpGet"]["port"] for probe in probes} == {port["name"]}
    return {probe["httpGet"]["path"] for probe in probes}


def test_workers_scale_with_the_jobs_that_there_are() -> None:
    scaled, _ = read(KUBERNETES / "components" / "keda" / "scaled-object.yaml")
    spec = scaled["spec"]
    lists = {trigger["name"]: trigger["metadata"]["listName"] for trigger in spec["triggers"]}
    model = literals()["MINIVAULT_MODELS"]
    assert lists == {"waiting": rq_queue(Redis(), model).key, "running": names.CLAIMS}
    modifiers = spec["advanced"]["scalingModifiers"]
    assert set(re.findall(r"[a-z]+", modifiers["formula"])) == set(lists)
    assert 0 < int(modifiers["target"]) <= int(literals()["MINIVAULT_SLOTS"])
    assert spec["minReplicaCount"] >= 1  # the API is not ready without one


def test_alerts_are_about_metrics_that_there_are() -> None:
    known = {*names_in(ApiMetrics()._registry), *names_in(WorkerMetrics().registry)}
    gauges = re.findall(r'gauge\("(\w+)"', inspect.getsource(WorkerService))
    known |= {f"minivault_{gauge}" for gauge in gauges}
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"\bminivault_\w+", text))
    assert len(named) > 9
    assert named <= known


def names_in(registry: CollectorRegistry) -> Iterator[str]:
    for family in registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        for suffix in suffixes.get(family.type, [""]):
            yield family.name + suffix
