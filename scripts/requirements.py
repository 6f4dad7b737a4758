"""Print what an extra of this project needs, for an image layer that changes only with it.

`python scripts/requirements.py api` reads pyproject.toml in the current folder.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    print(
        "\n".join(
            [*project["dependencies"], *(line for name in sys.argv[1:] for line in extras[name])]
        )
    )


if __name__ == "__main__":
    main()
