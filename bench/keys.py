"""`python -m bench.keys [URL]`: what it costs a request to have its API key looked up.

URL is that of a database; without one, a SQLite file. A table of its own is not made: use an
empty database.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from typing import Final

from api.keyring import Keyring
from shared import keys
from shared.configuration import load_settings
from shared.keybook import KeyBook
from shared.keys import Token

_KEYS: Final = 200
_LOOKS: Final = 1000
_CROWD: Final = 100


async def _look(ring: Keyring, token: Token) -> float:
    began = time.perf_counter()
    assert await ring.required()
    assert keys.opens(token, await ring.find(token.id), keys.now())
    return (time.perf_counter() - began) * 1000


async def _measure(url: str) -> None:
    settings = load_settings(database_url=url)
    book = KeyBook.open(settings)
    tokens = [book.create(f"bench {number}") for number in range(_KEYS)]
    book.close()
    ring = Keyring(settings)
    async with ring.opened():
        alone = [await _look(ring, tokens[number % _KEYS]) for number in range(_LOOKS)]
        began = time.perf_counter()
        for _ in range(_LOOKS // _CROWD):
            await asyncio.gather(*(_look(ring, token) for token in tokens[:_CROWD]))
        rate = _LOOKS / (time.perf_counter() - began)
    cuts = statistics.quantiles(alone, n=100)
    print(f"{_KEYS} keys, one look after the other: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms")
    print(f"{_CROWD} at once: {rate:.0f} looks a second")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/keys.db"
        asyncio.run(_measure(url))


if __name__ == "__main__":
    main()
