"""How commands end when something is wrong: one line, a code, no traceback."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest

from cli.exit_codes import BAD_CONFIGURATION
from shared.errors import ModelUnavailableError
from tests.support.commands import minivault


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run `minivault ...`; returns the exit code."""
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    return partial(minivault, monkeypatch)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "MINIVAULT_PROT=1",
            "MINIVAULT_PROT is not a setting. Did you mean MINIVAULT_PORT?",
        ),
        (
            "MINIVAULT_RATE_LIMIT=lots",
            "MINIVAULT_RATE_LIMIT=lots: write it like 5/minute, or off.",
        ),
        (
            "MINIVAULT_MODELS=nope",
            "There is no model 'nope'. Known: distilgpt2, smollm2-135m.",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(run, monkeypatch, capsys, setting, line) -> None:
    monkeypatch.setenv(*setting.split("="))
    assert run("models", "pull") == 78
    captured = capsys.readouterr()
    assert captured.err == f"{line}\n"
    assert captured.out == ""


def test_every_wrong_setting_is_named(run, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MINIVAULT_PORT", "0")
    monkeypatch.setenv("MINIVAULT_SLOTS", "many")
    assert run("status") == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["MINIVAULT_PORT", "MINIVAULT_SLOTS"]


@pytest.mark.parametrize(
    ("extra", "missing"),
    [("api", "fastapi"), ("worker", "torch"), ("dashboard", "rq_dashboard")],
)
def test_a_missing_extra_is_named(run, monkeypatch, capsys, extra, missing) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "cli.extras.find_spec", lambda name: None if name == missing else real(name)
    )
    assert run(extra) == 78  # the command of the same name
    line = capsys.readouterr().err
    assert (
        line == f"This needs {missing}, which is not installed: pip install 'minivault[{extra}]'\n"
    )


def test_a_worker_whose_model_is_unusable_is_not_worth_a_restart(run, monkeypatch, capsys) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelUnavailableError("The model is damaged.")

    monkeypatch.setattr("worker.main.run", fail)
    assert run("worker") == BAD_CONFIGURATION
    assert capsys.readouterr().err == "The model is damaged.\n"


def test_a_wrong_command_line_is_code_2_and_plain(run, capsys) -> None:
    assert run("generate") == 2
    err = capsys.readouterr().err
    assert "Missing argument 'prompt'" in err
    assert "─" not in err


def test_an_interrupt_is_code_130(run, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.commands.inspect.load_settings", interrupted)
    assert run("status") == 130


def test_the_version_is_the_installed_one(run, capsys) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("minivault 0.")
