"""How commands end: what a caller, be it a person, a script or the supervisor, can match on."""

from __future__ import annotations

from typing import Final

from cli.extras import MissingExtraError
from cli.transport import ServiceUnavailableError
from shared.errors import (
    CatalogError,
    DataDirError,
    MiniVaultError,
    ModelTooLargeError,
    ModelUnavailableError,
    SettingsError,
    UnknownModelError,
)

FAILED: Final = 1
TRY_AGAIN: Final = 75
"""sysexits' EX_TEMPFAIL: unreachable, busy or rate-limited."""
BAD_CONFIGURATION: Final = 78
"""sysexits' EX_CONFIG: no restart mends it."""
INTERRUPTED: Final = 130

_OF: Final[dict[type[MiniVaultError], int]] = {
    CatalogError: BAD_CONFIGURATION,
    DataDirError: BAD_CONFIGURATION,
    MissingExtraError: BAD_CONFIGURATION,
    ModelTooLargeError: BAD_CONFIGURATION,
    ModelUnavailableError: BAD_CONFIGURATION,
    ServiceUnavailableError: TRY_AGAIN,
    SettingsError: BAD_CONFIGURATION,
    UnknownModelError: BAD_CONFIGURATION,
}


def exit_code(error: MiniVaultError) -> int:
    return _OF.get(type(error), FAILED)
