"""What is left to do for jobs that have ended, as `finish.lua` wants to be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shared import names
from shared.allotment import day_of
from shared.claim import Claim
from shared.deliveries import KEPT_SECONDS
from shared.job import GenerationRequest

ENDED_TTL: Final = 24 * 3600
"""Seconds beyond its log's life that an ended job is remembered by name."""


class Ending(NamedTuple):
    """What is to be known of a job that has ended."""

    claim: Claim
    request: GenerationRequest
    saved: bool
    """Its row is written, so its log may expire."""
    log_ttl: int
    """In so many seconds."""
    used: int = 0
    """Tokens of its prompt and response."""
    seconds: float | None = None
    """In a slot."""


def finishing(endings: Sequence[Ending]) -> tuple[list[str], list[str | float]]:
    """The keys and arguments of the script: what all jobs share, then each one's own."""
    keys = [
        names.CLAIMS,
        names.JOBS,
        names.UNSAVED,
        names.ATTENDED,
        names.CANCELS,
        names.STRIKES,
        names.PACE,
        names.WEBHOOKS,
        names.WEBHOOK_TRIES,
    ]
    arguments: list[str | float] = []
    for claim, request, saved, log_ttl, used, seconds in endings:
        keys += (
            names.in_flight(request.client),
            names.events(claim.job_id),
            names.ended(claim.job_id),
            names.tokens(request.key, day_of(request.created_at)),
        )
        kept = max(log_ttl, KEPT_SECONDS) if request.webhook_url else log_ttl
        arguments += (
            claim.job_id,
            claim.owner,
            "1" if saved else "0",
            kept,
            kept + ENDED_TTL,
            claim.model,
            "" if seconds is None else seconds,
            request.key,
            used,
            "1" if request.webhook_url else "0",
        )
    return keys, arguments
