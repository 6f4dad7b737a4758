"""Any server that speaks OpenAI's protocol: chat completions, or completions for raw texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.drivers import wire
from bench.measure import Stream
from bench.workload import Ask


@dataclass(frozen=True)
class OpenAI:
    url: str
    """What `/v1` comes behind."""
    model: str

    def run(
        self, asks: Sequence[Ask], *, concurrency: int | None = None, seconds: float | None = None
    ) -> list[Stream]:
        return wire.run(asks, self._request, read, concurrency=concurrency, seconds=seconds)

    def _request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        body = {
            "model": self.model,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.raw:
            return f"{self.url}/v1/completions", body | {"prompt": ask.prompt}
        messages = [{"role": "user", "content": ask.prompt}]
        return f"{self.url}/v1/chat/completions", body | {"messages": messages}


def read(started: float, received: wire.Received) -> Stream:
    """The stream that a response is. Tokens are counted as events if it tells of no usage."""
    stream = Stream(started, failed=True)
    ended = started
    for arrival, _, data in wire.sse(received):
        if data == "[DONE]":
            break
        chunk = json.loads(data)
        for choice in chunk.get("choices", ()):
            if choice.get("text") or choice.get("delta", {}).get("content"):
                stream.arrivals.append(arrival)
            if choice.get("finish_reason"):
                stream.failed = False
                ended = arrival
        if usage := chunk.get("usage"):
            stream.tokens = usage["completion_tokens"]
            stream.prompt_tokens = usage["prompt_tokens"]
            details = usage.get("prompt_tokens_details") or {}
            stream.cached_tokens = details.get("cached_tokens") or 0
    stream.tokens = stream.tokens or len(stream.arrivals)
    stream.arrivals = stream.arrivals or [ended]
    return stream
