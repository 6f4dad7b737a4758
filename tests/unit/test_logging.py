"""What reaches the log, and what must not."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.configuration import load_settings
from shared.logging import configure, get_logger


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield
    root.handlers, level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_prompt(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(load_settings(log_format=log_format), "worker")

    def generate(prompt: str) -> None:
        raise ArithmeticError(len(prompt))

    try:
        generate("my secret")
    except ArithmeticError:
        get_logger().exception("step failed", model="m")
    logged = capsys.readouterr().err
    assert "ArithmeticError" in logged
    assert "step failed" in logged
    assert "my secret" not in logged.replace('generate("my secret")', "")


def test_libraries_log_through_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load_settings(log_format="json"), "api")
    logging.getLogger("uvicorn.error").warning("port is %s", 8000)
    logging.getLogger("rq.worker").info("a job's description")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["process"], line["level"]) for line in lines] == [
        ("port is 8000", "api", "warning")
    ]
