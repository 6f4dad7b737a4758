"""Secrets lie in files: a command line or an environment is read by more than its owner."""

from __future__ import annotations

from pathlib import Path

from shared.errors import SettingsError


def read_secret(path: Path, setting: str) -> str:
    """The first line of a file that a setting names.

    Raises:
        SettingsError: there is none.
    """
    try:
        secret = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{setting}: {path} can't be read ({reason}).") from error
    if not secret:
        raise SettingsError(f"{setting}: {path} is empty.")
    return secret
