"""Rows of the interactions database."""

import msgspec

from shared.interaction import Interaction
from shared.settings import Settings


def with_url(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"database_url": url})


def row(job_id: str, **changes: object) -> Interaction:
    plain = Interaction(
        id=job_id,
        request_id="req",
        client="127.0.0.1",
        model="m",
        prompt="What is the capital of France?",
        response="Paris",
        parameters="{}",
        status="done",
        finish_reason="stop",
        error=None,
        attempts=1,
        prompt_tokens=7,
        completion_tokens=1,
        queue_seconds=0.1,
        prefill_seconds=0.2,
        decode_seconds=0.3,
        total_seconds=0.6,
        created_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:01+00:00",
    )
    return msgspec.structs.replace(plain, **changes)
