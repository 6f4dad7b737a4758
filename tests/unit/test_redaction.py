"""Secrets that somebody has put into a line."""

from pathlib import Path

import pytest

from shared.configuration import load_settings
from shared.redaction import Redaction
from shared.settings import Settings

SECRET = "s3cret/wort"


def redacted(line: str, settings: Settings | None = None) -> str:
    return Redaction(settings or load_settings())(None, "info", line)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        (
            "Error connecting to redis://:pw@redis:6379/0.",
            "Error connecting to redis://:[redacted]@redis:6379/0.",
        ),
        ("postgresql+psycopg://me:p@db/x", "postgresql+psycopg://me:[redacted]@db/x"),
        ('{"url": "unix://u:p@/a/b.sock"}', '{"url": "unix://u:[redacted]@/a/b.sock"}'),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("{'authorization': 'Basic YTpi', 'x': 1}", "{'authorization': '[redacted]', 'x': 1}"),
        (r'"{\"x-api-key\": \"k1\"}"', r'"{\"x-api-key\": \"[redacted]\"}"'),
        ("(b'authorization', b'Bearer abc')", "(b'authorization', b'[redacted]')"),
        (
            f"a key mv-0123456789ab-{'0a' * 32} lies about",
            "a key mv-0123456789ab-[redacted] lies about",
        ),
        (f"half of one: mv-0123456789ab-{'0a' * 20}", "half of one: mv-0123456789ab-[redacted]"),
    ],
)
def test_urls_and_headers_lose_their_secrets(line: str, written: str) -> None:
    assert redacted(line) == written


@pytest.mark.parametrize(
    "line",
    [
        "http://127.0.0.1:8000/jobs",
        "listening url=http://0.0.0.0:8000 user@example.org",
        "no authorization was asked for",
        '{"path": "/jobs/job-1", "seconds": 1.5}',
    ],
)
def test_nothing_else_is_touched(line: str) -> None:
    assert redacted(line) == line


def test_a_password_is_known_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    own = load_settings(redis_url="redis://redis:6379", redis_password_file=file)
    quoted = SECRET.replace("/", "%2F")
    for line in (f"tried {SECRET}.", f'"HELLO 3 AUTH default {SECRET}"', f"tried {quoted}"):
        assert "[redacted]" in redacted(line, own)
        assert "wort" not in redacted(line, own)
    assert SECRET in redacted(SECRET)  # without these settings it is a word like any other


def test_the_passwords_of_the_database_the_dashboard_and_the_collector_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("dash-board-pw")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=collector-pw,x=1")
    own = load_settings(
        database_url="postgresql://me:data-base-pw@db/x", dashboard_password_file=file
    )
    line = redacted("dash-board-pw data-base-pw collector-pw x=1", own)
    assert line == "[redacted] [redacted] [redacted] x=1"
