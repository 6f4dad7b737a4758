"""What is measured of each stream, and what is made of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Stream:
    """One streamed answer. Times in seconds on one clock."""

    started: float
    """When it was sent, or was due to be: who waits for a connection waits."""
    job_id: str = ""
    tokens: int = 0
    """As the server or the engine counts them; as events, only where a server does not tell."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's."""
    arrivals: list[float] = field(default_factory=list)
    """Of events with text, each of one or more tokens; of the end, where there is none."""
    failed: bool = False
    """Refused, or ended without having been finished."""

    @property
    def ttft(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.started

    @property
    def pauses(self) -> list[float]:
        """Between one arrival and the next: inter-token latency as a reader feels it.

        An event of several tokens ends one pause, and its tokens share it: what a token takes on
        average is `seconds_per_token`.
        """
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def seconds_per_token(self) -> float:
        """After the first."""
        return (self.arrivals[-1] - self.arrivals[0]) / max(1, self.tokens - 1)

    @property
    def end_to_end(self) -> float:
        return self.arrivals[-1] - self.started


@dataclass(frozen=True)
class Result:
    """Some streams that ran together. Times in seconds; those of failed streams don't count."""

    streams: int
    failed: int
    tokens: int
    """That were generated."""
    prompt_tokens: int
    cached_tokens: int
    seconds: float
    """From the first request to the last token."""
    tokens_per_second: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    itl_p50: float
    itl_p90: float
    itl_p99: float
    e2e_p50: float
    e2e_p90: float
    e2e_p99: float
    seconds_per_token: float
    """Median over the streams of what a token after the first takes."""

    def __truediv__(self, other: Result) -> float:
        """How many times the throughput of `other`."""
        return self.tokens_per_second / other.tokens_per_second


@dataclass(frozen=True)
class Objective:
    """What a request has to keep to be good. In seconds."""

    ttft: float
    itl_p99: float

    def is_met_by(self, stream: Stream) -> bool:
        return (
            not stream.failed
            and stream.ttft <= self.ttft
            and quantile(stream.pauses or [0], 0.99) <= self.itl_p99
        )


@dataclass(frozen=True)
class Goodput:
    share: float
    """Of the requests that were good."""
    per_second: float
    """Good requests, over the time in which requests came and were answered."""


def summarize(streams: Sequence[Stream]) -> Result:
    """What streams that ran together come to.

    Raises:
        ValueError: none of them brought a token.
    """
    whole = [stream for stream in streams if not stream.failed]
    if not whole:
        raise ValueError(f"All of {len(streams)} streams failed.")
    begin = min(stream.started for stream in streams)
    end = max(stream.arrivals[-1] for stream in whole)
    ttfts = [stream.ttft for stream in whole]
    pauses = [pause for stream in whole for pause in stream.pauses] or [0.0]
    ends = [stream.end_to_end for stream in whole]
    tokens = sum(stream.tokens for stream in whole)
    return Result(
        streams=len(streams),
        failed=len(streams) - len(whole),
        tokens=tokens,
        prompt_tokens=sum(stream.prompt_tokens for stream in whole),
        cached_tokens=sum(stream.cached_tokens for stream in whole),
        seconds=end - begin,
        tokens_per_second=tokens / (end - begin),
        ttft_p50=quantile(ttfts, 0.5),
        ttft_p90=quantile(ttfts, 0.9),
        ttft_p99=quantile(ttfts, 0.99),
        itl_p50=quantile(pauses, 0.5),
        itl_p90=quantile(pauses, 0.9),
        itl_p99=quantile(pauses, 0.99),
        e2e_p50=quantile(ends, 0.5),
        e2e_p90=quantile(ends, 0.9),
        e2e_p99=quantile(ends, 0.99),
        seconds_per_token=quantile([stream.seconds_per_token for stream in whole], 0.5),
    )


def goodput(streams: Sequence[Stream], objective: Objective) -> Goodput:
    good = sum(objective.is_met_by(stream) for stream in streams)
    times = [time for stream in streams for time in (stream.started, *stream.arrivals[-1:])]
    return Goodput(good / len(streams), good / (max(times) - min(times)) if good else 0.0)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]
