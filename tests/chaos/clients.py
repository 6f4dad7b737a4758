"""A client that keeps to the documented protocol and never gives up before its deadline.

It submits under an Idempotency-Key, so that a lost answer can be asked for again, follows the
stream, and after any loss goes on behind the last number it has.
"""

import asyncio
import json
import random
import time
import uuid
from typing import Any, Final

from tests.chaos.prompts import Request
from tests.chaos.record import Record
from tests.chaos.wire import Exchange, LostError, Sabotage, SseEvent

PATIENCE_SECONDS: Final = 300.0
"""A stream that has not ended by then counts as unfinished."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
_BUSY: Final = (429, 503)


class Client:
    def __init__(self, address: tuple[str, int], request: Request) -> None:
        self.record = Record(request)
        self._address = address
        self._sabotage = Sabotage()
        self._key = str(uuid.uuid4())
        self._exchange: Exchange | None = None

    def drop_after(self, count: int) -> None:
        """Break the connection off when `count` more bytes were received; 0: now."""
        self._sabotage.bytes_left = count
        if count == 0 and self._exchange is not None:
            self._exchange.close()

    async def stop_reading(self, seconds: float) -> None:
        self._sabotage.reading.clear()
        await asyncio.sleep(seconds)
        self._sabotage.reading.set()

    async def run(self) -> Record:
        """Follow the stream to its end, or until patience ends."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._follow()
        except TimeoutError:
            self.record.trouble.append(
                f"no end within {PATIENCE_SECONDS:.0f} s; last event {self.record.last_seq}"
            )
        return self.record

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while not self.record.ending:
            before = len(self.record.arrivals)
            try:
                wait = await self._connect_once()
            except LostError:
                wait = 0.0
            if self.record.ending or wait is None:
                return
            pause = _FIRST_PAUSE if len(self.record.arrivals) > before else pause
            await asyncio.sleep(min(max(wait, pause), _LONGEST_PAUSE) * random.uniform(0.5, 1))
            pause *= 2

    async def _connect_once(self) -> float | None:
        """One connection's worth. Seconds the service asks to wait; None: there is no hope."""
        self.record.connections += 1
        after = self.record.last_seq
        self._exchange = await (self._resume(after) if after else self._submit())
        try:
            return await self._receive(self._exchange, after)
        finally:
            self._exchange.close()
            self._exchange = None

    async def _submit(self) -> Exchange:
        return await Exchange.open(
            self._address,
            self._sabotage,
            "POST",
            "/generate/stream",
            headers={"Accept": "text/event-stream", "Idempotency-Key": self._key},
            body=self.record.request.body,
        )

    async def _resume(self, after: int) -> Exchange:
        return await Exchange.open(
            self._address,
            self._sabotage,
            "GET",
            f"/jobs/{self.record.job_id}/events",
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)},
        )

    async def _receive(self, exchange: Exchange, after: int) -> float | None:
        if exchange.status in _BUSY:
            return float(exchange.headers.get("retry-after", "1"))
        if exchange.status != 200:
            self.record.trouble.append(
                f"{exchange.status} behind event {after}: {await exchange.problem()}"
            )
            return None
        async for event in exchange.events():
            if event.id:
                self.record.note(int(event.id), event.name, _data(event), time.monotonic())
            elif event.name == "error":
                return 0.0  # the service gives this connection up, not the job
            if self.record.ending:
                break
        return 0.0


def _data(event: SseEvent) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(event.data)
    return data
