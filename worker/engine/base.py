"""What the loop around an engine may rely on, whichever engine it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from shared.errors import MiniVaultError
from shared.events import FinishReason, TokenLogprobs
from shared.job import SamplingParams


@dataclass(frozen=True, slots=True)
class EngineRequest:
    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    generated_ids: tuple[int, ...] = ()
    """Tokens that an earlier attempt has already published; generation goes on behind them."""
    generated_text: str = ""
    """The text published with them."""
    salt: str = ""
    """Requests of one salt may share what was computed of their prompts."""


class Output(msgspec.Struct, frozen=True):
    """What one step added to one request.

    `ids` without the end-of-sequence token; `text` what has become certain. After an output
    with a `finish_reason` the engine has forgotten the request.
    """

    id: str
    ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each id, where the request asked for them."""
    cached_tokens: int = 0
    """Prompt tokens that did not have to be computed; told with the first output."""
    error: MiniVaultError | None = None
    """Where `finish_reason` is `error`: why."""


class Engine(Protocol):
    """Synchronous and single-threaded: one thread calls all of it."""

    @property
    def has_work(self) -> bool: ...

    @property
    def free_slots(self) -> int: ...

    @property
    def kv_bytes(self) -> int:
        """Memory set aside for keys and values: the slots' and those of prompts gone by."""
        ...

    @property
    def kv_usage(self) -> float:
        """Share of the slots' memory which holds tokens, 0 to 1. From any thread."""
        ...

    @property
    def prefix_bytes(self) -> int:
        """What is held of prompts gone by, for those that begin alike. From any thread."""
        ...

    def add(self, request: EngineRequest) -> None:
        """Take a request; it joins the batch at the next step. Needs a free slot.

        Raises:
            InvalidLogitBiasError: a token in it is none of the model's.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its slot at once. Unknown ids are ignored."""
        ...

    def step(self) -> list[Output]:
        """Advance all requests; returns once something was computed."""
        ...
