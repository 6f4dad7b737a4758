"""Render deploy/kubernetes with kubectl and hold the result to schemas: `make kubernetes-check`.

Built-in kinds are held to the oldest and the newest Kubernetes that we support, KEDA's and the
Prometheus operator's to models made from their definitions; a field that none of them knows is an
error. Then names: whatever one object calls another must be there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

Manifest = dict[str, Any]

ROOT: Final = Path(__file__).parent.parent / "deploy"
VERSIONS: Final = ("1.29", "1.37")
_MODELS: Final[dict[str, Any]] = {
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
    "PodMonitor": prometheus.PodMonitor,
    "PrometheusRule": prometheus.PrometheusRule,
}
_GPU: Final = "- ../../components/gpu"


def main() -> int:
    if shutil.which("kubectl") is None:
        print("Needs kubectl 1.27 or later, which renders the manifests.", file=sys.stderr)
        return 1
    count = 0
    problems = []
    for name, manifests in _rendered():
        found = [*_schema_problems(manifests), *_name_problems(manifests)]
        problems += [f"{name}: {problem}" for problem in found]
        count += len(manifests)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"kubernetes: {count} manifests, {len(problems)} problems")
    return 1 if problems else 0


def _rendered() -> Iterator[tuple[str, list[Manifest]]]:
    """What an operator would apply, with passwords that open nothing."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(shutil.copytree(ROOT / "kubernetes", Path(folder, "kubernetes")))
        overlay = tree / "overlays" / "production"
        shutil.rmtree(overlay / "secrets", ignore_errors=True)
        (overlay / "secrets").mkdir()
        for name in ("redis", "dashboard", "database-url"):
            (overlay / "secrets" / name).write_text("none", encoding="utf-8")
        yield "production", [*_render(overlay), _alerts()]
        kustomization = overlay / "kustomization.yaml"
        text = kustomization.read_text(encoding="utf-8")
        kustomization.write_text(text.replace(f"# {_GPU}", _GPU), encoding="utf-8")
        yield "production with GPUs", _render(overlay)


def _render(folder: Path) -> list[Manifest]:
    command = ["kubectl", "kustomize", str(folder)]
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return list(yaml.safe_load_all(rendered))


def _alerts() -> Manifest:
    """The rules as docs/kubernetes.md wraps them for the operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "minivault"},
        "spec": yaml.safe_load((ROOT / "prometheus" / "alerts.yml").read_text(encoding="utf-8")),
    }


def _schema_problems(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        if model := _MODELS.get(manifest["kind"]):
            try:
                known = model.model_validate(manifest)
            except ValueError as error:
                yield f"{_title(manifest)}: {error}"
                continue
            # The models drop what they do not know.
            if json.loads(known.model_dump_json(by_alias=True, exclude_unset=True)) != manifest:
                yield f"{_title(manifest)} has a field that is not in its definition"
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{_title(manifest)}, Kubernetes {version}: {error.message}"


def _name_problems(manifests: list[Manifest]) -> Iterator[str]:
    """References that kustomize did not follow, and selectors that find no pod."""
    present = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    pods = [each["spec"]["template"] for each in manifests if "template" in each.get("spec", {})]
    for manifest in manifests:
        for kind, name in _references(manifest):
            if (kind, name) not in present:
                yield f"{_title(manifest)} names the {kind} {name}, which is not there"
        for selector, ports in _selectors(manifest):
            selected = [pod for pod in pods if _matches(selector, pod["metadata"]["labels"])]
            offered = {
                port["name"]
                for pod in selected
                for container in pod["spec"]["containers"]
                for port in container["ports"]
            }
            if not selected:
                yield f"{_title(manifest)} selects no pod: {selector}"
            yield from (
                f"{_title(manifest)} names the port {port}, which no pod has that it selects"
                for port in ports - offered
            )


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """(kind, name) of what is named anywhere inside."""
    match value:
        case {"secretName": name, "items": _}:
            yield "Secret", name
        case {"configMapRef": {"name": name}}:
            yield "ConfigMap", name
        case {"secretKeyRef": {"name": name}} | {"parameter": _, "name": name}:
            yield "Secret", name
        case {"authenticationRef": {"name": name}}:
            yield "TriggerAuthentication", name
        case {"scaleTargetRef": {"name": name}}:
            yield "Deployment", name
        case {"service": {"name": name}}:
            yield "Service", name
        case {"serviceAccountName": name}:
            yield "ServiceAccount", name
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _references(part)


def _selectors(manifest: Manifest) -> Iterator[tuple[Manifest, set[str]]]:
    """Labels that pods of this stack must have, with ports that they must offer by name."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Service":
            yield {"matchLabels": spec["selector"]}, {port["targetPort"] for port in spec["ports"]}
        case "NetworkPolicy":
            yield spec["podSelector"], _named_ports(spec.get("ingress", []))
            for rule in spec.get("egress", []):
                for peer in rule.get("to", []):
                    yield peer["podSelector"], _named_ports([rule])
            for rule in spec.get("ingress", []):
                for peer in rule.get("from", []):
                    if "podSelector" in peer:  # else pods of somebody else's namespace
                        yield peer["podSelector"], set()
        case "PodMonitor":
            endpoints = spec["podMetricsEndpoints"]
            yield spec["selector"], {endpoint["port"] for endpoint in endpoints}
        case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
            yield spec["selector"], set()


def _named_ports(rules: list[Manifest]) -> set[str]:
    ports = [port["port"] for rule in rules for port in rule.get("ports", [])]
    return {port for port in ports if isinstance(port, str)}


def _matches(selector: Manifest, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(part["key"]) in part["values"] for part in selector.get("matchExpressions", [])
    )


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


if __name__ == "__main__":
    sys.exit(main())
