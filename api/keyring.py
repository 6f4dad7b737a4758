"""The API's view of the keys: read anew for every request, so that a change counts at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from shared.errors import StoreAwayError, StoreError
from shared.keybook import KeyBook
from shared.keys import Key
from shared.listen import is_loopback
from shared.logging import get_logger
from shared.settings import Settings

LOOK_SECONDS: Final = 1.0
"""Longer than this no request waits for the database."""
_REMEMBERED: Final = 10_000
"""Keys, for while the database is away."""

T = TypeVar("T")

log = get_logger()


class Keyring:
    """Looks keys up beside the event loop, on one thread with one connection.

    While the database is away, what was known last goes on: nobody can make or revoke a key
    meanwhile either. Nobody is let in of whom nothing is known.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "keys")
        self._known: OrderedDict[str, Key] = OrderedDict()
        self._is_away = False
        self._overdue: Future[Any] | None = None
        """A look that nobody waits for any more, and that keeps the thread busy."""
        self._required: bool | None = None
        """None: nobody has been able to look yet."""
        if settings.auth == "required" or (
            settings.auth == "auto" and not is_loopback(settings.reached_at)
        ):
            self._required = True

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the connection for as long as this is entered."""
        loop = asyncio.get_running_loop()

        def open_book() -> KeyBook:
            return KeyBook.open(self._settings, patient=True)

        self._book = await loop.run_in_executor(self._thread, open_book)
        if self._required is None:
            with suppress(StoreError):  # who asks first then looks again
                self._required = await loop.run_in_executor(self._thread, self._book.exists)
        try:
            yield
        finally:
            self._thread.submit(self._book.close)
            self._thread.shutdown(wait=False)

    async def required(self) -> bool:
        """Whether requests need a key. Once they do, they do for as long as this process lives.

        Raises:
            StoreError: nobody knows.
        """
        if self._required is False and self._book.is_empty_at_once():
            return False  # as nearly always where nobody needs one, and without a thread's wake-up
        if not self._required:
            try:
                self._required = await self._ask(KeyBook.exists)
            except StoreError:
                if self._required is None:
                    raise
        return self._required

    async def find(self, key_id: str) -> Key | None:
        """A key's record; None if there is none.

        Raises:
            StoreError: nobody knows.
        """
        try:
            key = await self._ask(lambda book: book.find(key_id))
        except StoreError:
            if key_id not in self._known:
                raise
            return self._known[key_id]
        if key is not None:
            self._known[key_id] = key
            self._known.move_to_end(key_id)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return key

    async def _ask(self, look: Callable[[KeyBook], T]) -> T:
        try:
            found = await self._in_time(look)
        except StoreError as error:
            if not self._is_away:  # an outage is told once
                log.warning("the keys are away", reason=str(error))
            self._is_away = True
            raise StoreError("API keys can't be checked: the database does not answer.") from error
        self._is_away = False
        return found

    async def _in_time(self, look: Callable[[KeyBook], T]) -> T:
        if self._overdue is not None and not self._overdue.done():
            raise StoreAwayError
        future = self._thread.submit(look, self._book)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.running():
                self._overdue = future
            raise StoreAwayError from None
