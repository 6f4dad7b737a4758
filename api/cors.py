"""Which pages of other sites may use the API from a browser."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api.context import HEADER
from api.openai.exchange import JOBS_HEADER

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_EXPOSED: Final = (HEADER, JOBS_HEADER, "Location", "RateLimit", "RateLimit-Policy", "Retry-After")
_REMEMBERED_SECONDS: Final = 600


def allow_origins(app: FastAPI, origins: Collection[str]) -> None:
    """`origins` as the settings have them; none: no page gets to read an answer.

    Preflights carry no key and count for no limit, so they are answered in front of whatever asks
    for one, and behind the gate, which looks at names and at the room that there is. Cookies and
    logins of a browser never count (`allow_credentials`): a key is sent by the page or not at all.
    Pages may send any header, since their libraries add some of their own; what a header may do
    here does not depend on who sends it.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=_EXPOSED,
            max_age=_REMEMBERED_SECONDS,
        )
