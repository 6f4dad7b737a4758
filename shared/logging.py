"""Logs: one line an event, for people (`console`) or machines (`json`), to standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from shared.settings import Settings

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
    """Send structlog's and the standard library's records the same way."""
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
    renderer = _json() if settings.log_format == "json" else _console()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
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
