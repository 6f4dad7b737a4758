"""A job's way through the worker, as spans: one a phase and attempt, written when it is over.

So a worker that is killed leaves no span of the phase that it was in. Whoever rescues the job
writes one that says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.claim import worker_of
from shared.events import Cancelled, Done, Failed, FinishReason
from shared.job import now
from shared.tracing import Attributes, Tracing
from worker.run import Run


class RunTraces:
    """From any thread. Their parent is the request's span, which may have ended by then."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def taken(self, run: Run) -> None:
        """A slot has become free for it."""
        run.in_slot = True
        if not run.starts:
            self._write("queue", run, run.request.created_at, run.taken_at, {})

    def published(self, run: Run) -> None:
        """More of it is in the log."""
        if run.first_token_at is not None and not run.prefill_told:
            run.prefill_told = True
            self._prefill(run, run.first_token_at)

    def ended(self, run: Run, end: Done | Failed | Cancelled) -> None:
        """Its terminal event is in the log."""
        match end:
            case Done():
                self._over(run, str(end.finish_reason))
            case Failed():
                self._over(run, str(FinishReason.ERROR), error=end.code)
            case _:
                self._over(run, str(FinishReason.CANCELLED))

    def left(self, run: Run, how: str) -> None:
        """This attempt is over and the job is not: `handed_back`, `taken_over`."""
        self._over(run, how)

    def saved(self, runs: Sequence[Run], began: float, *, error: str = "") -> None:
        """Their rows are written, in one transaction; or they are not."""
        for run in runs:
            self._write("save", run, began, now(), {"minivault.rows": len(runs)}, error=error)

    def recovered(self, run: Run, outcome: str, *, owner: str, began: float) -> None:
        """A job that nobody looked after any more was looked after."""
        what: Attributes = {
            "minivault.outcome": outcome,
            "minivault.lost_worker": worker_of(owner) or None,
            "minivault.tokens_kept": len(run.ids),
        }
        self._write("recover", run, began, now(), what)

    def _over(self, run: Run, how: str, *, error: str = "") -> None:
        if not run.in_slot:
            if not run.starts:  # it waited until it ended
                waited = {"minivault.outcome": how}
                self._write("queue", run, run.request.created_at, now(), waited, error=error)
        elif run.first_token_at is None:
            self._prefill(run, now(), how, error=error)
        else:
            self.published(run)  # of an attempt that ends with its first token
            self._decode(run, how, error=error)

    def _prefill(self, run: Run, end: float, how: str | None = None, *, error: str = "") -> None:
        """As `Timings` has it: loading the model and tokenizing belong to it."""
        what: Attributes = {
            "gen_ai.usage.input_tokens": run.prompt_tokens,
            "minivault.resumed": run.inherited > 0,
            "minivault.resumed_tokens": run.inherited,
            "minivault.outcome": how,
        }
        self._write("prefill", run, run.taken_at, end, what, error=error)

    def _decode(self, run: Run, how: str, *, error: str) -> None:
        assert run.first_token_at is not None
        params = run.request.params
        what: Attributes = {
            "gen_ai.operation.name": "text_completion" if run.request.raw else "chat",
            "gen_ai.provider.name": "minivault",
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.usage.input_tokens": run.prompt_tokens,
            # Of this attempt: over a job's attempts they add up to its tokens.
            "gen_ai.usage.output_tokens": len(run.ids) - run.inherited,
            "gen_ai.response.finish_reasons": (how,),
            "minivault.resumed": run.inherited > 0,
        }
        end = run.last_token_at or now()
        self._write("decode", run, run.first_token_at, end, what, error=error)

    def _write(
        self,
        name: str,
        run: Run,
        start: float,
        end: float,
        what: Attributes,
        *,
        error: str = "",
    ) -> None:
        request = run.request
        common: Attributes = {
            "gen_ai.request.model": request.model,
            "minivault.job_id": request.id,
            "minivault.request_id": request.request_id,
            "minivault.attempt": max(1, run.starts + (name == "queue")),
        }
        self._tracing.write(name, request.trace, start, end, {**common, **what}, error=error)
