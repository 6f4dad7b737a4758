"""MiniVault, by its own protocol: `POST /generate/stream`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.drivers import wire
from bench.measure import Stream
from bench.workload import Ask


@dataclass(frozen=True)
class MiniVault:
    url: str

    def run(
        self, asks: Sequence[Ask], *, concurrency: int | None = None, seconds: float | None = None
    ) -> list[Stream]:
        return wire.run(asks, self._request, read, concurrency=concurrency, seconds=seconds)

    def _request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        return f"{self.url}/generate/stream", {
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "raw": ask.raw,
        }


def read(started: float, received: wire.Received) -> Stream:
    """The stream that a response to `POST /generate/stream` is."""
    stream = Stream(started, failed=True)
    for arrival, name, data in wire.sse(received):
        if name == "token":
            stream.arrivals.append(arrival)
        elif name == "queued":
            stream.job_id = json.loads(data)["id"]
        elif name == "done":
            usage = json.loads(data)["usage"]
            stream.tokens = usage["completion_tokens"]
            stream.prompt_tokens = usage["prompt_tokens"]
            stream.cached_tokens = usage["cached_tokens"]
            stream.arrivals = stream.arrivals or [arrival]
            stream.failed = False
    return stream
