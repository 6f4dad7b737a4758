"""What a body asks for, whichever protocol it came by."""

from __future__ import annotations

from dataclasses import dataclass

from shared.job import Message, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A job that is not admitted yet. It has one of `prompt`, `messages` and `prompt_ids`."""

    params: SamplingParams
    fingerprint: str
    """Of the request as the client made it: what was chosen for it would differ every time."""
    model: str | None = None
    """None: the default model."""
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    raw: bool = False
    echo: bool = False
    background: bool = False
    priority: int = 0
    ttl: float | None = None
    """Seconds that it may wait; None: as long as the service allows."""
    note: str = ""
    webhook_url: str = ""
    """Where the job's end is to be told."""
