"""Ends streams whose API key has ended since they were opened."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from api.feed import Feed
from api.keyring import Keyring
from shared import keys
from shared.errors import StoreError
from shared.logging import get_logger

LOOK_SECONDS: Final = 2.0

log = get_logger()


class Vigil:
    """Looks at the keys of all open streams of the process, each once a round."""

    def __init__(self, keyring: Keyring, feeds: Collection[Feed]) -> None:
        """`feeds` are those open now."""
        self._keyring = keyring
        self._feeds = feeds

    async def look(self) -> None:
        for key_id in {feed.key for feed in self._feeds if feed.key}:
            try:
                key = await self._keyring.find(key_id)
            except StoreError:  # then nobody could end a key either
                return
            if key is None or key.state(keys.now()) != "active":
                self._end(key_id)

    def _end(self, key_id: str) -> None:
        ended = [feed for feed in self._feeds if feed.key == key_id]
        log.info("streams ended with their key", key_id=key_id, streams=len(ended))
        for feed in ended:
            feed.end()
