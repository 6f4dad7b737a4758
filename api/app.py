"""The application, built from its settings and from nothing at import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypedDict

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import openapi, problems
from api.authentication import Authentication
from api.body import BodyLimit
from api.context import RequestContext
from api.cors import allow_origins
from api.gate import Gate
from api.metrics import ApiMetrics
from api.routes import (
    generate,
    health,
    interactions,
    jobs,
    metrics,
    models,
    openai,
    responses,
    tokens,
    usage,
)
from api.state import PROCESS, State, open_state
from shared.logging import get_logger
from shared.settings import Settings
from shared.tracing import Tracing

DESCRIPTION = """\
Text generation whose unit is a durable job. A prompt becomes a job; what happens to it is an
event log that you can follow, leave and rejoin.

Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem documents with a `code`.
Every answer has an `X-Request-ID`; send your own to find it in the logs.
Before it reaches an operation, a request can be answered with 400 (`invalid_http`), 408, 421, 431
or 503 (`too_many_connections`).

Where the operator has made API keys, requests need one: `Authorization: Bearer <key>` or
`X-API-Key`. Without, the answer is 401 (`missing_api_key`, `invalid_api_key`), 400
(`ambiguous_api_key`: more than one), 429 (`rate_limited`: too many of these) or 503
(`store_unavailable`: it can't be checked now).
"""


class Lifespan(TypedDict):
    app: State


def create_app(settings: Settings) -> FastAPI:
    """Connects to Redis when it starts and not before."""
    counted, tracing = ApiMetrics(), Tracing(PROCESS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Lifespan]:
        asyncio.get_running_loop().set_exception_handler(_unexpected)
        tracing.start()
        async with open_state(settings, counted) as state:
            yield {"app": state}
        await asyncio.to_thread(tracing.close)

    usual: dict[str, Any] = {
        "redoc_url": None,
        "title": "MiniVault",
        "version": version("minivault"),
        "description": DESCRIPTION,
        "lifespan": lifespan,
        "redirect_slashes": False,
        # Its own telemetry, where something else has set it up, exports the texts of exceptions.
        "telemetry": {"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    }
    if settings.docs == "on":
        # The docs page's scripts come from this process: it has to work without a network.
        app = FastAPIOffline(swagger_ui_parameters={"validatorUrl": None}, **usual)
    else:
        app = FastAPI(docs_url=None, openapi_url=None, **usual)
    routes = list(app.routes)
    for module in (
        generate,
        jobs,
        tokens,
        interactions,
        usage,
        models,
        openai,
        responses,
        health,
        metrics,
    ):
        app.include_router(module.router)
        routes += module.router.routes
    problems.install(app, routes)
    openapi.install(app, settings)
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_body_bytes, seconds=settings.request_seconds
    )
    app.add_middleware(Authentication, settings=settings)
    allow_origins(app, settings.cors_origins)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(RequestContext, metrics=counted, tracing=tracing)  # last added, outermost
    return app


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waits for. asyncio's own line quotes the task, with the error's text."""
    get_logger().error(
        "unexpected error", what=context["message"], exc_info=context.get("exception")
    )
