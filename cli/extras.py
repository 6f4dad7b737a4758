"""Optional parts of the installation, asked for before they are imported."""

from __future__ import annotations

from importlib.util import find_spec

from shared.errors import MiniVaultError


class MissingExtraError(MiniVaultError):
    """A command needs a part of MiniVault that is not installed."""

    code = "extra_missing"


def require(extra: str, *modules: str) -> None:
    """Check that the packages of an extra are there.

    Raises:
        MissingExtraError: one is not; the message says what to install.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(
                f"This needs {module}, which is not installed: pip install 'minivault[{extra}]'"
            )
