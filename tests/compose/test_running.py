"""The stack as it comes up: what it answers, and what it is allowed to do."""

import json
import subprocess
from typing import Any

import httpx
import pytest

from tests.compose.readme import curl_lines, job_in, with_job
from tests.compose.stack import ComposeStack, docker

LASTING = ("api", "dashboard", "keeper", "redis", "worker")


def test_all_that_lasts_is_healthy_and_the_rest_has_ended_well(stack: ComposeStack) -> None:
    states = {
        each["Config"]["Labels"]["com.docker.compose.service"]: each["State"]
        for each in stack.containers()
    }
    health = {name: states.pop(name)["Health"]["Status"] for name in LASTING}
    assert set(health.values()) == {"healthy"}
    assert {name: state["ExitCode"] for name, state in states.items()} == {
        "passwords": 0,
        "models": 0,
    }
    assert len(stack.containers("worker")) == 2


def test_the_readmes_curl_lines_work(stack: ComposeStack) -> None:
    job, answers = "", []
    for line in curl_lines():
        ready = with_job(line, job).replace("http://127.0.0.1:8000", stack.url)
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {ready}"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (ready, done.stderr)
        assert '"code"' not in done.stdout, (ready, done.stdout)
        job = job_in(done.stdout) or job
        answers.append(done.stdout)
    assert len(answers) >= 6
    assert answers[0].strip() == "The capital of England is London."
    assert sum("event: done" in answer for answer in answers) == 2  # a stream, and its resumption


def test_redis_wants_its_password_and_has_no_port_outside(stack: ComposeStack) -> None:
    answer = stack.compose("exec", "-T", "redis", "redis-cli", "ping")
    assert "NOAUTH" in answer
    (redis,) = stack.containers("redis")
    assert not any(redis["NetworkSettings"]["Ports"].values())


def test_no_password_is_on_a_command_line_or_in_an_environment(stack: ComposeStack) -> None:
    secrets = [stack.password(name) for name in ("redis", "dashboard", "grafana")]
    assert min(len(secret) for secret in secrets) >= 32
    assert len(set(secrets)) == 3
    seen = json.dumps(stack.containers()) + stack.compose("top") + stack.compose("logs")
    assert not [secret for secret in secrets if secret in seen]


@pytest.mark.parametrize("service", LASTING)
def test_a_container_may_do_little(stack: ComposeStack, service: str) -> None:
    (container, *_) = stack.containers(service)
    host: dict[str, Any] = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-file": "5", "max-size": "10m"}
    if service != "keeper":
        assert container["Config"]["User"] not in ("", "0", "root", "0:0")
    if service in ("worker", "redis", "keeper"):
        assert not any((container["NetworkSettings"]["Ports"] or {}).values())


def test_only_what_fetches_models_can_call_the_world(stack: ComposeStack) -> None:
    networks = {
        each["Config"]["Labels"]["com.docker.compose.service"]: set(
            each["NetworkSettings"]["Networks"]
        )
        for each in stack.containers()
    }
    ways_out = [name for name, found in networks.items() if "minivault-test_internet" in found]
    assert ways_out == ["models"]
    (inside,) = json.loads(docker("network", "inspect", "minivault-test_inside"))
    assert inside["Internal"]
    (published,) = json.loads(docker("network", "inspect", "minivault-test_published"))
    assert published["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_the_apis_image_has_neither_torch_nor_a_compiler(stack: ComposeStack) -> None:
    found = stack.python(
        "api",
        "import importlib.util, shutil;"
        "print([n for n in ('torch', 'transformers', 'numpy') if importlib.util.find_spec(n)],"
        "[n for n in ('cc', 'gcc', 'g++', 'clang', 'make', 'ld') if shutil.which(n)])",
    )
    assert found == "[] []"


def test_the_dashboard_asks_for_its_login_and_shows_both_workers(stack: ComposeStack) -> None:
    page = f"{stack.dashboard_url}/0/data/workers.json"
    assert httpx.get(page).status_code == 401
    assert httpx.get(page, auth=("minivault", "wrong")).status_code == 401
    answer = httpx.get(page, auth=("minivault", stack.password("dashboard")))
    assert answer.status_code == 200
    assert len(answer.json()["workers"]) == 2


def test_logs_are_json_and_hold_no_prompt(stack: ComposeStack) -> None:
    prompt = "a prompt that must not be logged"
    httpx.post(f"{stack.url}/generate", json={"prompt": prompt, "max_tokens": 2}, timeout=60)
    lines = [
        line
        for service in ("api", "worker")
        for line in stack.compose("logs", "--no-log-prefix", service).splitlines()
    ]
    assert lines
    assert all(json.loads(line)["event"] for line in lines)
    assert prompt not in "".join(lines)
