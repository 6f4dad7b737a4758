"""Spans by OpenTelemetry's SDK. Imported only where traces are sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.job import now, trace_id
from shared.logging import get_logger
from shared.tracing import Attributes, Context

_NAME: Final = "minivault"
_W3C: Final = TraceContextTextMapPropagator()


class OpenSpan:
    """A request under way."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.context: Context = {}
        _W3C.inject(self.context, set_span_in_context(span))

    @property
    def trace_id(self) -> str:
        return trace_id(self.context)

    def end(self, name: str, attributes: Attributes, *, error: str = "") -> None:
        self._span.update_name(name)
        _finish(self._span, attributes, error, now())


class Spans:
    """A tracer of our own: whatever else in the process traces by the global one is not ours."""

    def __init__(self, service: str, instance: str) -> None:
        """Raises ValueError if a variable of the SDK's can't be used."""
        own = {"service.name": service, "service.version": version("minivault")}
        if instance:
            own["service.instance.id"] = instance
        # The sampler is the environment's, by default the parent's decision.
        self._provider = TracerProvider(
            resource=Resource.create(own).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,  # it would wait for half a minute
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer(_NAME)
        # From here on `_Exporter` has the say: the SDK tells every batch that fails, twice.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def begin(self, headers: Mapping[str, str]) -> OpenSpan:
        parent = _W3C.extract(headers)
        return OpenSpan(self._tracer.start_span("HTTP", parent, kind=SpanKind.SERVER))

    def write(
        self,
        name: str,
        parent: Context,
        start: float,
        end: float,
        attributes: Attributes,
        *,
        error: str,
    ) -> None:
        span = self._tracer.start_span(
            name, _W3C.extract(parent), kind=SpanKind.INTERNAL, start_time=_nanoseconds(start)
        )
        # Clocks of two machines may differ; no span ends before it begins.
        _finish(span, attributes, error, max(start, end))

    def close(self) -> None:
        self._provider.shutdown()


class _Exporter(SpanExporter):
    """Tells an outage of the collector once. Spans of that time are lost."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            get_logger().warning("the collector takes no traces; they are lost until it does")
        elif self._failing and not failing:
            get_logger().info("the collector takes traces again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _finish(span: Span, attributes: Attributes, error: str, end: float) -> None:
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if error:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end(_nanoseconds(end))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
