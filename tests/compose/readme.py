"""The README's curl lines, as somebody would paste them."""

import re
from typing import Final

from tests.compose.stack import ROOT

_CONSOLE: Final = re.compile(r"```console\n(.*?)```", re.DOTALL)
_COMMAND: Final = re.compile(r"^\$ (curl (?:.*\\\n)*.*)$", re.MULTILINE)
_JOB: Final = re.compile(r"job-[0-9a-f]{32}")


def curl_lines() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [command for block in _CONSOLE.findall(text) for command in _COMMAND.findall(block)]


def job_in(text: str) -> str:
    """The job that is named there; "" if none is."""
    found = _JOB.search(text)
    return found.group() if found else ""


def with_job(line: str, job: str) -> str:
    return _JOB.sub(job, line)
