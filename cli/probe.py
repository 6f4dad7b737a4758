"""`python -m cli.probe URL`: whether it answers with success. For containers: it loads little."""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from typing import Final

_SECONDS: Final = 2.0


def main() -> int:
    """0 or 1; what was answered goes to standard output, where `docker inspect` shows it."""
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=_SECONDS) as answer:  # noqa: S310
            print(answer.read().decode(errors="replace"), end="")  # noqa: T201
    except urllib.error.HTTPError as error:
        print(error.read().decode(errors="replace"), end="")  # noqa: T201
        return 1
    except (OSError, http.client.HTTPException) as error:
        print(error)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
