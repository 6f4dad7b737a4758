"""What reaches the log, and what must not."""

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog

from shared.configuration import load_settings
from shared.errors import StoreError
from shared.logging import configure, get_logger, job_logger
from tests.support.jobs import generation


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield
    root.handlers, level = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
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


def quoting(prompt: str) -> None:
    """Fails as a library may that quotes what it can't read, in all the ways there are."""
    try:
        try:
            {}[prompt]
        except KeyError as error:
            error.add_note(prompt)
            raise StoreError("the disk is full") from error
    except StoreError:
        raise ExceptionGroup(prompt, [ValueError(prompt), OSError(2, "is gone")])  # noqa: B904


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_libraries_say_of_a_prompt_is_withheld(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(load_settings(log_format=log_format), "worker")
    try:
        quoting("my secret")
    except ExceptionGroup:
        get_logger().exception("step failed")
        logging.getLogger("library").exception("it failed")
    logged = capsys.readouterr().err
    assert "my secret" not in logged.replace('quoting("my secret")', "")
    for said in ("KeyError", "ValueError", "the disk is full", "is gone", "quoting", "withheld"):
        assert logged.count(said) >= 2


def test_debug_shows_what_was_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load_settings(log_level="debug"), "worker")
    try:
        quoting("my secret")
    except ExceptionGroup:
        get_logger().exception("step failed")
    assert "ValueError: my secret" in capsys.readouterr().err


def test_nothing_leaves_a_process_in_another_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load_settings(log_format="json"), "worker")

    def fail() -> None:
        raise ArithmeticError("my secret")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except ArithmeticError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is deprecated", DeprecationWarning, stacklevel=1)
    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["level"] for line in lines] == ["critical", "critical", "warning"]
    assert [line["exception"][0]["exc_type"] for line in lines[:2]] == ["ArithmeticError"] * 2
    assert "this is deprecated" in lines[2]["event"]
    assert "my secret" not in written


def test_a_line_about_a_job_can_be_found(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load_settings(log_format="json"), "worker")
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    for request in (generation(request_id="mine", trace=trace), generation(request_id="mine")):
        job_logger(request).info("job ended")
        line = json.loads(capsys.readouterr().err)
        assert (line["job_id"], line["request_id"]) == (request.id, "mine")
        assert line.get("trace_id") == ("a" * 32 if request.trace else None)
