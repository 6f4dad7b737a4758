"""Takes secrets out of lines that are about to be written, whoever has put them in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from shared.settings import Settings

MARK: Final = "[redacted]"
_PASSWORD_IN_URL: Final = re.compile(r"(?<=://)([^\s/?#@:\"']*):[^\s/?#\"']*@")
_HEADER: Final = re.compile(
    r"""((?:proxy-)?authorization|x-api-key|api-key|cookie)   # as text, `repr` or JSON have it
        (\\?['"]?\s*[:=,]\s*(?:b?\\?['"])?)
        (?:(?:bearer|basic|digest)\s+)?[^\s'"\\,;]+""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADERS: Final = ("authorization", "api-key", "cookie")
"""Any of which is part of what `_HEADER` finds."""
_API_KEY: Final = re.compile(r"(mv-[0-9a-f]{12}-)[0-9a-f]{16,}")
"""Also one that was cut off, or is not ours: whoever sent it may have meant one that is."""
_SHORTEST: Final = 6
"""Characters. A shorter password would be found in every other word."""


class Redaction:
    """A structlog processor behind the renderer: it sees the line as it will be written."""

    def __init__(self, settings: Settings) -> None:
        known = {form for secret in _secrets(settings) for form in _forms(secret)}
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def __call__(self, _: Any, __: str, line: str) -> str:
        if self._known is not None:
            line = self._known.sub(MARK, line)
        # To look for what they need first takes a fiftieth of the time: nearly no line has it.
        if "://" in line:
            line = _PASSWORD_IN_URL.sub(rf"\1:{MARK}@", line)
        if "mv-" in line:
            line = _API_KEY.sub(rf"\1{MARK}", line)
        lowered = line.lower()
        if any(name in lowered for name in _HEADERS):
            line = _HEADER.sub(rf"\1\2{MARK}", line)
        return line


def _secrets(settings: Settings) -> Iterator[str]:
    for url in (settings.redis_url, settings.database_url):
        login, at, _ = (url or "").partition("://")[2].rpartition("@")
        if at:
            yield login.partition(":")[2]
    for name in type(settings).model_fields:
        path = getattr(settings, name)
        is_secret = name.endswith(("_password_file", "_key_file", "_secret_file"))
        if is_secret and isinstance(path, Path):
            yield from _first_line(path)
    if settings.api_key is not None:
        yield settings.api_key.get_secret_value()
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for header in os.environ.get(name, "").split(","):
            yield header.partition("=")[2].strip()


def _first_line(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeError):  # whoever needs it says so
        return


def _forms(secret: str) -> Iterator[str]:
    """As it is, as URLs have it, and as JSON and `repr` write it."""
    for form in {secret, unquote(secret), quote(unquote(secret), safe="")}:
        if len(form) >= _SHORTEST:
            yield form
            yield json.dumps(form)[1:-1]
            yield repr(form)[1:-1]
