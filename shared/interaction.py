"""A finished job as the database has it."""

from __future__ import annotations

import msgspec

from shared.job import SamplingParams


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """A finished job. Times of day are ISO 8601 in UTC, durations seconds."""

    id: str
    request_id: str
    client: str
    key: str = ""
    """Id of the API key that the job came with; its owner."""
    model: str
    prompt: str
    response: str
    """What the client received."""
    parameters: str
    """The sampling parameters as JSON."""
    status: str
    finish_reason: str
    error: str | None
    attempts: int
    prompt_tokens: int
    cached_tokens: int = 0
    """Of the prompt's, those that did not have to be computed again."""
    completion_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    created_at: str
    finished_at: str

    @property
    def day(self) -> str:
        """On which its usage counts. When it was made never changes; when it ended may."""
        return self.created_at[:10]


def without_text(row: Interaction) -> Interaction:
    """All but what its user wrote and read: numbers, names and times."""
    params = msgspec.json.decode(row.parameters, type=SamplingParams)
    grammar = params.grammar and msgspec.structs.replace(params.grammar, value="")
    params = msgspec.structs.replace(params, stop=(), logit_bias={}, grammar=grammar)
    return msgspec.structs.replace(
        row, prompt="", response="", parameters=msgspec.json.encode(params).decode()
    )
