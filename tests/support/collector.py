"""A real OTLP/HTTP receiver, as small as it can be."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    """Nanoseconds since the epoch."""
    failed: bool
    service: str
    attributes: dict[str, Any]


class Collector:
    def __init__(self) -> None:
        self.raw: list[bytes] = []
        """Requests as they came."""
        self.headers: list[dict[str, str]] = []
        self.hanging = threading.Event()
        """Set: it takes connections and never answers."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """In the order of their starts."""
        found = []
        for body in list(self.raw):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    found += [_span(each, service) for each in scope.spans]
        return sorted(found, key=lambda span: span.start)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def serve(self) -> threading.Thread:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                if collector.hanging.is_set():
                    threading.Event().wait(60)
                collector.headers.append(dict(self.headers))
                collector.raw.append(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _span(span: Any, service: str) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        service=service,
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(each) for each in value.array_value.values)
    return getattr(value, kind)


@contextmanager
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = made.serve()
    try:
        yield made
    finally:
        made.close()
        thread.join(timeout=5)
