"""OpenAI's own SDK for Node: runs `node/suite.mjs`, and kills what it asks to have killed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sdks.conftest import Service
from tests.sdks.tools import NODE

SUITE = Path(__file__).parent / "node" / "suite.mjs"


@pytest.mark.timeout(600)
def test_the_suite_passes(service: Service) -> None:
    here = NODE / SUITE.name  # beside its node_modules
    shutil.copy(SUITE, here)
    environment = {"SERVICE": service.url, "KEY": service.key, "SLOW_KEY": service.slow_key()}
    with subprocess.Popen(
        ["node", str(here)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        said = []
        for line in node.stdout:
            said.append(line)
            if "KILL" in line:
                service.kill_worker_and_api()
                node.stdin.write("go on\n")
                node.stdin.close()  # it ends when nobody can say more
    report = "".join(said)
    assert node.returncode == 0, report
    assert "KILL" in report
