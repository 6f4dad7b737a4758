"""Logs: one line an event, for people (`console`) or machines (`json`), to standard error.

What must not get there, wherever it comes from: prompts and responses, which only exceptions
could carry (`shared.shield`), and passwords (`shared.redaction`).
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

from shared.job import GenerationRequest
from shared.redaction import Redaction
from shared.settings import Settings
from shared.shield import shielded

_QUIET = (
    "httpcore",
    "httpx",
    "push_response",  # redis-py's; logs every message, and so prompts and responses
    "pyrate_limiter",
    "rq.job",
    "rq.worker",
    "sse_starlette",  # logs every chunk
    "transformers",
    "uvicorn.access",
)


def configure(settings: Settings, process: str) -> None:
    """Send what structlog, the standard library, warnings and uncaught errors say the same way."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]

    def name_process(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        return {"process": process, **event}

    shared_processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    rendering: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        *([] if level <= logging.DEBUG else [_shield]),
        *(_json() if settings.log_format == "json" else _console()),
        Redaction(settings),
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared_processors, structlog.stdlib.add_logger_name],
            processors=rendering,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared_processors,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    get_logger().critical("unexpected error", exc_info=(kind, error, traceback))


def _uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    get_logger().critical("unexpected error", exc_info=uncaught.exc_value)


def _shield(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    return event if error is None else {**event, "exc_info": shielded(error)}


# Tracebacks without local variables: those would show prompts.


def _json() -> list[Any]:
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(tracebacks),
        structlog.processors.JSONRenderer(),
    ]


def _console() -> list[Any]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def get_logger() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()
    return logger


def job_logger(request: GenerationRequest) -> structlog.stdlib.BoundLogger:
    """For lines about a job: by these fields they are found, whichever process wrote them."""
    fields = {"job_id": request.id, "request_id": request.request_id}
    if request.trace_id:
        fields["trace_id"] = request.trace_id
    return get_logger().bind(**fields)
