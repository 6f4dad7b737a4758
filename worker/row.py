"""From a job's log to its row in the store."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from shared.events import Cancelled, Done, Failed, FinishReason
from shared.interaction import Interaction
from worker.run import Run


def row_of(run: Run, end: Done | Failed | Cancelled) -> Interaction:
    """What the log adds up to with `end` in it: the same row whoever writes it, and whenever."""
    request, usage, timings = run.request, end.usage, end.timings
    status, reason = _status(end)
    return Interaction(
        id=run.id,
        request_id=request.request_id,
        client=request.client,
        key=request.key,
        model=request.model,
        prompt=request.prompt_text,
        response=run.text,
        parameters=msgspec.json.encode(request.params).decode(),
        status=status,
        finish_reason=reason,
        error=end.code if isinstance(end, Failed) else None,
        attempts=max(1, run.starts),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        queue_seconds=timings.queue,
        prefill_seconds=timings.prefill,
        decode_seconds=timings.decode,
        total_seconds=timings.total,
        created_at=_iso(request.created_at),
        finished_at=_iso(request.created_at + timings.total),
    )


def _status(end: Done | Failed | Cancelled) -> tuple[str, FinishReason]:
    match end:
        case Done():
            return "done", end.finish_reason
        case Failed():
            return "failed", FinishReason.ERROR
        case _:
            return "cancelled", FinishReason.CANCELLED


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
