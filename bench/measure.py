"""What is measured of each stream, and what is made of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Stream:
    """One streamed answer. Times in seconds on one clock."""

    started: float
    job_id: str = ""
    tokens: int = 0
    """As the service or the engine counts them, not as events arrive."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's."""
    arrivals: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.started

    @property
    def pauses(self) -> list[float]:
        """Between one arrival and the next: inter-token latency as a reader feels it."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True)
class Result:
    """Some streams that ran together."""

    streams: int
    tokens_per_second: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float

    def __truediv__(self, other: Result) -> float:
        """How many times the throughput of `other`."""
        return self.tokens_per_second / other.tokens_per_second


def summarize(streams: Sequence[Stream]) -> Result:
    begin = min(stream.started for stream in streams)
    end = max(stream.arrivals[-1] for stream in streams)
    ttfts = [stream.ttft for stream in streams]
    pauses = [pause for stream in streams for pause in stream.pauses]
    return Result(
        streams=len(streams),
        tokens_per_second=sum(stream.tokens for stream in streams) / (end - begin),
        ttft_p50=quantile(ttfts, 0.5),
        ttft_p99=quantile(ttfts, 0.99),
        itl_p50=quantile(pauses, 0.5),
        itl_p99=quantile(pauses, 0.99),
    )


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]
