"""The `minivault` command inside the test process."""

import sys

import pytest

from cli.main import main


def minivault(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command to its end; the exit code."""
    patch.setattr(sys, "argv", ["minivault", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code
