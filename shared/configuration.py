"""Settings from the environment and `.env`; what can't be used is told in lines."""

from __future__ import annotations

import difflib
import os
from typing import Any
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import ValidationError
from sqlalchemy import make_url

from shared.errors import SettingsError
from shared.secret import read_secret
from shared.settings import ENV_FILE, PREFIX, Settings


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; `overrides` win, unless they are None.

    Raises:
        SettingsError: a name is unknown or a value can't be used; all of them are listed.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    problems = _unknown_names()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems += [_explain(problem) for problem in error.errors()]
    if problems:
        raise SettingsError("\n".join(problems))
    return _with_database_password(_with_redis_password(settings))


def _with_redis_password(settings: Settings) -> Settings:
    if settings.redis_password_file is None:
        return settings
    if settings.redis_url is None or "@" in settings.redis_url:
        raise SettingsError(
            f"{PREFIX}REDIS_PASSWORD_FILE goes with a {PREFIX}REDIS_URL that has no password."
        )
    password = read_secret(settings.redis_password_file, f"{PREFIX}REDIS_PASSWORD_FILE")
    scheme, _, rest = settings.redis_url.partition("://")
    url = f"{scheme}://:{quote(password, safe='')}@{rest}"
    return settings.model_copy(update={"redis_url": url})


def _with_database_password(settings: Settings) -> Settings:
    if settings.database_password_file is None:
        return settings
    url = make_url(settings.effective_database_url)
    if not url.username or url.password:
        raise SettingsError(
            f"{PREFIX}DATABASE_PASSWORD_FILE goes with a {PREFIX}DATABASE_URL that names a user "
            "and has no password."
        )
    password = read_secret(settings.database_password_file, f"{PREFIX}DATABASE_PASSWORD_FILE")
    full = url.set(password=password).render_as_string(hide_password=False)
    return settings.model_copy(update={"database_url": full})


def _unknown_names() -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    present = [*os.environ, *dotenv_values(ENV_FILE)]
    problems = []
    for name in sorted({name.upper() for name in present if name.upper().startswith(PREFIX)}):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            problems.append(f"{name} is not a setting.{hint}")
    return problems


def _explain(problem: Any) -> str:
    name = PREFIX + "_".join(str(part) for part in problem["loc"][:1]).upper()
    reason = problem["msg"].removeprefix("Value error, ")
    if name.endswith(("_URL", "_KEY")):  # may hold a secret
        return f"{name}: {reason}."
    return f"{name}={problem['input']!s}: {reason}."
