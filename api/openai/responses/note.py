"""What a response object repeats of its request, and no event says."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.job import GenerationRequest


class ResponseNote(msgspec.Struct, frozen=True, kw_only=True, tag="response", omit_defaults=True):
    """Kept with the job, in the first entry of its log."""

    store: bool = True
    instructed: bool = False
    """The first of the job's messages are the instructions."""
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    text: dict[str, Any]
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    parallel_tool_calls: bool = True
    tool_choice: str = "auto"
    top_logprobs: int = 0
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ResponseNote)


def encode(note: ResponseNote) -> str:
    return _encoder.encode(note).decode()


def note_of(request: GenerationRequest) -> ResponseNote | None:
    """None: the job came by another protocol."""
    try:
        return _decoder.decode(request.note)
    except msgspec.DecodeError:
        return None
