import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import ROOT, ComposeStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """Built, started with two workers, and gone without a trace afterwards."""
    folder = tmp_path_factory.mktemp("compose")
    stack = ComposeStack(folder, profiles=["keeper"])
    stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans")
    try:
        stack.up("--build", "--scale", "worker=2")
        yield stack
    finally:
        _keep_logs(stack, folder)
        stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans")


def _keep_logs(stack: ComposeStack, folder: Path) -> None:
    log = folder / "containers.log"
    log.write_text(stack.compose("logs", "--timestamps"))
    kept = ROOT / ".cache" / "compose.log"
    kept.parent.mkdir(exist_ok=True)
    shutil.copy(log, kept)
