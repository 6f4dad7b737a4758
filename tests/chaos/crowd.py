"""Many clients, so many at a time, and no faster than the faults come."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from tests.chaos.clients import Client
from tests.chaos.prompts import Request
from tests.chaos.record import Record

_POLL: Final = 0.05


class Crowd:
    def __init__(
        self, address: tuple[str, int], asked: Iterable[Request], *, at_once: int, allowed: float
    ) -> None:
        """`allowed` is how many may have begun by now; raise it with `allow`."""
        self.records: list[Record] = []
        """Of every stream that has begun."""
        self._address = address
        self._asked = list(asked)
        self._places = asyncio.Semaphore(at_once)
        self._allowed = allowed
        self._active: dict[int, Client] = {}
        self._next_drops: list[int] = []
        self._finished = 0

    @property
    def total(self) -> int:
        return len(self._asked)

    @property
    def finished(self) -> int:
        return self._finished

    @property
    def active(self) -> list[Client]:
        """Clients that have not ended, in the order in which they began."""
        return list(self._active.values())

    def streaming(self) -> Iterator[Client]:
        """Clients that have had tokens and wait for more."""
        return (client for client in self.active if client.record.streaming)

    def allow(self, count: float) -> None:
        self._allowed = max(self._allowed, count)

    def drop_next(self, byte_counts: Iterable[int]) -> None:
        """The next clients to begin lose their first connection after so many bytes."""
        self._next_drops += byte_counts

    def give_up(self) -> None:
        """Nobody begins any more."""
        self._asked = self._asked[: len(self.records)]

    async def run(self) -> None:
        """Until the last client has ended."""
        async with asyncio.TaskGroup() as tasks:
            number = 0
            while number < len(self._asked):
                if number >= self._allowed:
                    await asyncio.sleep(_POLL)
                    continue
                await self._places.acquire()
                if number >= len(self._asked):
                    break
                client = Client(self._address, self._asked[number])
                if self._next_drops:
                    client.drop_after(self._next_drops.pop())
                self.records.append(client.record)
                self._active[number] = client
                tasks.create_task(self._attend(number, client))
                number += 1

    async def _attend(self, number: int, client: Client) -> None:
        try:
            await client.run()
        finally:
            del self._active[number]
            self._finished += 1
            self._places.release()
