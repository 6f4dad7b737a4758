"""Where `make test-sdks` has installed what is no part of MiniVault's own environment."""

from pathlib import Path
from typing import Final

INSTALLED: Final = Path(__file__).parents[2] / ".cache" / "sdks"
OTHERS: Final = INSTALLED / "venv" / "bin"
NODE: Final = INSTALLED / "node"
