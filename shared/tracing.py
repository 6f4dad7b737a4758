"""Traces: what became of a request, from the API through the queue to the worker's steps.

Set up by OpenTelemetry's standard variables, of which it reads the few that say whether there is
anything to do. Where there is not, nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from shared.logging import get_logger

if TYPE_CHECKING:
    from shared.spans import OpenSpan, Spans

CLOSING_SECONDS: Final = 1.0
"""How long a process that ends waits for a collector to take its last spans."""

Attributes: TypeAlias = Mapping[str, str | int | float | bool | tuple[str, ...] | None]
"""What is None is left out. Never a prompt or a response."""
Context: TypeAlias = dict[str, str]
"""W3C's `traceparent` and `tracestate`; empty: there is no trace."""


class Tracing:
    """Writes spans, if somebody wants them. Sending them is a background thread's business."""

    def __init__(self, process: str, instance: str = "") -> None:
        """`process` names the service unless `OTEL_SERVICE_NAME` does; `instance` one of many."""
        self._process = process
        self._instance = instance
        self._spans: Spans | None = None

    def start(self) -> None:
        """Begin to send, where the environment names a collector. Not before a fork."""
        if not _wanted(os.environ):
            return
        try:
            from shared.spans import Spans  # noqa: PLC0415  (only who traces pays for it)

            self._spans = Spans(f"minivault-{self._process}", self._instance)
        except ImportError:
            get_logger().warning(
                "traces are not sent: OpenTelemetry is not installed",
                install="pip install 'minivault[tracing]'",
            )
        except ValueError as error:
            get_logger().warning("traces are not sent", reason=str(error))

    def close(self) -> None:
        """Send what is left. A collector that does not answer is not waited for."""
        if self._spans is not None:
            closing = threading.Thread(target=self._spans.close, name="tracing", daemon=True)
            closing.start()
            closing.join(CLOSING_SECONDS)

    def begin(self, headers: Mapping[str, str]) -> OpenSpan | None:
        """A server's span that goes on with the trace of its request's headers."""
        return None if self._spans is None else self._spans.begin(headers)

    def write(
        self,
        name: str,
        parent: Context,
        start: float,
        end: float,
        attributes: Attributes,
        *,
        error: str = "",
    ) -> None:
        """A span of something that is over; times as `shared.job.now`, `error` a code."""
        if self._spans is not None and parent:
            self._spans.write(name, parent, start, end, attributes, error=error)


def _wanted(environment: Mapping[str, str]) -> bool:
    """Whether spans are to be sent. Unlike the SDK's own, the default is no."""

    def value(name: str) -> str:
        return environment.get(f"OTEL_{name}", "").strip().lower()

    exporter = value("TRACES_EXPORTER")
    named = value("EXPORTER_OTLP_TRACES_ENDPOINT") or value("EXPORTER_OTLP_ENDPOINT")
    if value("SDK_DISABLED") == "true" or exporter == "none" or not (named or exporter):
        return False
    protocol = value("EXPORTER_OTLP_TRACES_PROTOCOL") or value("EXPORTER_OTLP_PROTOCOL")
    for name, given, known in (
        ("OTEL_TRACES_EXPORTER", exporter, "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol, "http/protobuf"),
    ):
        if given not in ("", known):
            get_logger().warning(f"traces are not sent: {name} can only be {known}", given=given)
            return False
    return True
