"""What a worker counts. Names and units are those of the field (vLLM's, where it has one).

Labels are models of the catalog, finish reasons and error codes: a bounded number, whatever
clients send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from shared.events import Cancelled, Done, Failed, FinishReason
from worker.run import Run

_QUEUE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""From a free slot to an hour in line."""
_FIRST_TOKEN: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 30, 60, 300)
_BETWEEN: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5)
"""A token a step: from a GPU's to those of a full batch on a laptop."""
_WHOLE: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900, 3600)
_STEP: Final = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)


class WorkerMetrics:
    """Counts from any thread. A registry of its own: nothing happens at import."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"minivault_{name}", text, ["model"], buckets=buckets, registry=registry
            )

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"minivault_{name}", text, labels, registry=registry)

        self._queue_time = histogram(
            "request_queue_time_seconds", "From acceptance until a slot was free.", _QUEUE
        )
        self._first_token = histogram(
            "time_to_first_token_seconds", "From acceptance to the first token.", _FIRST_TOKEN
        )
        self._between = histogram(
            "inter_token_latency_seconds", "Between two tokens of a request.", _BETWEEN
        )
        self._between_of: dict[str, Histogram] = {}
        """Of each model: for each token `labels` would take longer than what it is asked for."""
        self._whole = histogram(
            "e2e_request_latency_seconds", "From acceptance to the end of the log.", _WHOLE
        )
        self._step = histogram(
            "engine_step_seconds", "One step of the engine, for all that run.", _STEP
        )
        self._prompt_tokens = counter(
            "prompt_tokens", "Tokens of prompts, counted as each is begun.", "model"
        )
        self._prefix_hits = counter(
            "prefix_cache_hits", "Prompts of which a beginning was known.", "model"
        )
        self._prefix_hit_tokens = counter(
            "prefix_cache_hit_tokens", "Their tokens that were not computed again.", "model"
        )
        self._generation_tokens = counter("generation_tokens", "Tokens generated.", "model")
        self._requests = counter(
            "requests", "Requests that ended, by how.", "model", "finish_reason"
        )
        self._errors = counter("request_errors", "Those that failed, by error code.", "code")
        self._recoveries = counter(
            "recoveries",
            "Jobs that nobody looked after any more, by what became of them.",
            "outcome",
        )
        self._fenced = counter(
            "fenced_appends", "Appends refused because the job had another owner by then."
        )
        self._store_failures = counter("store_failures", "Writes that the database refused.")
        self._retired = counter("interactions_retired", "Rows deleted because of their age.")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Have a value read whenever somebody asks for it."""
        Gauge(f"minivault_{name}", text, registry=self.registry).set_function(read)

    def retired(self, rows: int) -> None:
        self._retired.inc(rows)

    def taken(self, run: Run) -> None:
        """A slot has become free for it."""
        if not run.starts:
            waited = max(0.0, run.taken_at - run.request.created_at)
            self._queue_time.labels(run.request.model).observe(waited)

    def begun(self, run: Run) -> None:
        """Its prompt is known to the engine."""
        if not run.resumes:
            self._prompt_tokens.labels(run.request.model).inc(len(run.prompt_ids))

    def recalled(self, run: Run) -> None:
        """So many of its prompt's tokens are cached that it has told just now."""
        self._prefix_hits.labels(run.request.model).inc()
        self._prefix_hit_tokens.labels(run.request.model).inc(run.cached_tokens)

    def generated(self, run: Run, since: float | None) -> None:
        """Tokens came just now; `since` is when those before them came, if any did."""
        model, time = run.request.model, run.last_token_at
        assert time is not None
        if since is not None:
            between = self._between_of.get(model)
            if between is None:
                between = self._between_of[model] = self._between.labels(model)
            between.observe(time - since)
        elif not run.resumes:
            self._first_token.labels(model).observe(max(0.0, time - run.request.created_at))

    def stepped(self, model: str, seconds: float, tokens: int) -> None:
        """A step has ended, and its tokens are on their way."""
        self._step.labels(model).observe(seconds)
        self._generation_tokens.labels(model).inc(tokens)

    def ended(self, run: Run, end: Done | Failed | Cancelled) -> None:
        """Its terminal event is in the log."""
        match end:
            case Done():
                reason = end.finish_reason
            case Failed():
                reason = FinishReason.ERROR
                self._errors.labels(end.code).inc()
            case _:
                reason = FinishReason.CANCELLED
        self._requests.labels(run.request.model, str(reason)).inc()
        self._whole.labels(run.request.model).observe(end.timings.total)

    def recovered(self, outcome: str) -> None:
        """put_back, ended (only its row or its books were missing), cancelled, given_up."""
        self._recoveries.labels(outcome).inc()

    def fenced(self) -> None:
        self._fenced.inc()

    def store_failed(self) -> None:
        self._store_failures.inc()
