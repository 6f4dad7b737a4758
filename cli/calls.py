"""What a client asks, and what an answer means: everything but the asking itself."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

import httpx

from cli.events import Job, Model, NotMiniVaultError, typed
from cli.patience import Pause
from cli.transport import RequestRefusedError, require_success

LOCAL: Final = "http://127.0.0.1:8000"
"""Where a service is that was left at its defaults."""
API_KEY: Final = "MINIVAULT_API_KEY"
"""Environment variable: the key that clients send if they are given none."""
_CONNECT_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 45.0
"""Longer than the service's pings are apart; after this a connection counts as lost."""

T = TypeVar("T")


class Call(NamedTuple):
    """A request; sent again, it is the same one."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    json: Mapping[str, Any] | None = None


def unnoticed(_: Pause) -> None:
    """What is done about a pause if nothing was said."""


def connection(url: str, api_key: str | None) -> dict[str, Any]:
    """How httpx's clients are to connect.

    Raises:
        RequestRefusedError: that is no key.
    """
    key = os.environ.get(API_KEY, "") if api_key is None else api_key
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise RequestRefusedError("An API key is made of visible ASCII characters.")
    return {
        "base_url": url,
        "timeout": httpx.Timeout(_CONNECT_SECONDS, read=_SILENCE_SECONDS),
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        # A proxy in the environment is no way to one's own machine.
        "trust_env": False,
    }


def submission(path: str, prompt: str | None, key: str | None, fields: Mapping[str, Any]) -> Call:
    """A job that can be submitted twice and is made once. Fields that are None are left out."""
    body = {"prompt": prompt, **fields}
    return Call(
        "POST",
        path,
        {"Idempotency-Key": key or uuid.uuid4().hex, "Accept": "text/event-stream"},
        {name: value for name, value in body.items() if value is not None},
    )


def job(job_id: str) -> Call:
    return Call("GET", f"/jobs/{job_id}")


def cancellation(job_id: str) -> Call:
    return Call("DELETE", f"/jobs/{job_id}")


def models() -> Call:
    return Call("GET", "/models")


def document(response: httpx.Response, url: str) -> Any:
    """The JSON of an answer that has been read.

    Raises:
        RequestRefusedError: it is a refusal, or not MiniVault's.
        ServiceUnavailableError: it is a refusal that passes.
    """
    require_success(response)
    try:
        return response.json()
    except ValueError as error:
        raise NotMiniVaultError(url) from error


def read_job(response: httpx.Response, url: str) -> Job:
    """As `document`."""
    return typed(Job, document(response, url), url)


def read_models(response: httpx.Response, url: str) -> list[Model]:
    """As `document`."""
    found = document(response, url)
    if not isinstance(found, dict) or not isinstance(found.get("models"), list):
        raise NotMiniVaultError(url)
    return [typed(Model, each, url) for each in found["models"]]
