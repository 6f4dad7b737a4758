"""The API key that commands send."""

from __future__ import annotations

import re
from typing import Final

from shared.errors import SettingsError
from shared.secret import read_secret
from shared.settings import PREFIX, Settings

_VISIBLE: Final = re.compile(r"[!-~]+")


def api_key(settings: Settings) -> str | None:
    """None if the settings have none.

    Raises:
        SettingsError: its file can't be read, or it is nothing that a header could hold.
    """
    if settings.api_key is not None:
        key, setting = settings.api_key.get_secret_value(), f"{PREFIX}API_KEY"
    elif settings.api_key_file is not None:
        setting = f"{PREFIX}API_KEY_FILE"
        key = read_secret(settings.api_key_file, setting)
    else:
        return None
    if not _VISIBLE.fullmatch(key):
        raise SettingsError(f"{setting}: an API key has visible ASCII characters only.")
    return key
