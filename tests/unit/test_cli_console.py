"""Boxes and colours for people, plain lines for programs."""

import json

import pytest

from cli import console
from cli.banner import show_banner
from cli.progress import ModelProgress
from shared.configuration import load_settings

ROWS = [("a", "one\ntwo"), ("b", "\x1b[31mred\x07")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


def test_a_piped_table_is_tab_separated_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("name", "text"), [("a", "one\ntwo"), ("b", "x" * 300)])
    assert capsys.readouterr().out == f"a\tone two\nb\t{'x' * 300}\n"


def test_a_terminal_gets_a_header_and_no_escapes_from_the_data(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    console.table(("name", "text"), ROWS)
    out = capsys.readouterr().out
    assert "name" in out
    assert "[31mred" in out
    assert "\x1b[31m" not in out
    assert "\x07" not in out


def test_markup_in_a_text_is_just_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("[bold]not bold[/bold]")
    assert capsys.readouterr().out == "[bold]not bold[/bold]\n"


def test_printable_keeps_text_and_drops_what_steers() -> None:
    assert console.printable("é😀\tx\ny\x1b[2J\x9b\x07") == "é😀\tx\ny[2J"


def test_json_keeps_unicode_readable(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_json({"text": "é"})
    out = capsys.readouterr().out
    assert "é" in out
    assert json.loads(out) == {"text": "é"}


def test_the_piped_banner_has_no_box_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    show_banner(load_settings(port=8123), "http://127.0.0.1:8123")
    out = capsys.readouterr().out
    assert "API: http://127.0.0.1:8123\n" in out
    assert "─" not in out
    assert "\x1b" not in out


def test_the_curl_line_is_one_line_also_on_a_narrow_terminal(
    terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show_banner(load_settings(port=8123), "http://127.0.0.1:8123")
    out = capsys.readouterr().out
    assert "─" in out
    curl = next(line for line in out.splitlines() if "curl -N" in line)
    assert curl.endswith("}'")


def steps(progress: ModelProgress) -> None:
    progress("Downloading", 0, None)
    progress("Downloading", 50_000_000, 100_000_000)
    progress("Downloading", 51_000_000, 100_000_000)
    progress("Downloading", 100_000_000, 100_000_000)
    progress("Converting", 0, None)


def test_piped_progress_is_a_line_per_stage_and_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelProgress("m") as progress:
        steps(progress)
    assert capsys.readouterr().err.splitlines() == [
        "m: Downloading",
        "m: Downloading, 50 % of 100.0 MB",
        "m: Downloading, 100 % of 100.0 MB",
        "m: Converting",
    ]


def test_progress_on_a_terminal_is_a_bar_that_leaves_nothing(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelProgress("m") as progress:
        steps(progress)
    shown = capsys.readouterr().err
    assert "m: Converting" in shown
    assert "━" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_nothing_to_do_shows_nothing(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    with ModelProgress("m"):
        pass
    assert capsys.readouterr().err == ""
