"""The HTTP API from the client's side. What is lost on the way is asked for again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx

from cli.following import Following, StreamEvent
from cli.patience import Patience
from cli.transport import (
    RequestRefusedError,
    ServiceUnavailableError,
    require_success,
    translated,
)
from shared.settings import Settings

_CONNECT_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 45.0
"""Longer than the service's pings are apart; after this a connection counts as lost."""


def service_url(settings: Settings) -> str:
    """Where this machine reaches the API that the settings describe."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def is_ready(url: str) -> bool:
    """Whether a service answers there and says it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False


class Client:
    """Use it as a context manager: it keeps connections open.

    Every method raises ServiceUnavailableError if nobody answers, or not now, and
    RequestRefusedError if the request is wrong.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        timeout = httpx.Timeout(_CONNECT_SECONDS, read=_SILENCE_SECONDS)
        try:
            # A proxy in the environment is no way to one's own machine.
            self._http = httpx.Client(
                base_url=self._url,
                headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
                timeout=timeout,
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise RequestRefusedError(f"{url} is no URL: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._http.close()

    def stream(self, body: Mapping[str, Any]) -> Iterator[StreamEvent]:
        """Submit a job and follow it: its events, each once, up to its end.

        When the connection drops, the stream goes on behind the last event received. Remarks
        without a number come as they are said.
        """
        submission = self._submission("/generate/stream", body)
        submission.headers["Accept"] = "text/event-stream"
        return iter(Following(self._http, submission=submission))

    def events(self, job_id: str, after: int = 0) -> Iterator[StreamEvent]:
        """As `stream`, of a job that was submitted before, behind event `after`."""
        return iter(Following(self._http, job_id=job_id, after=after))

    def submit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a job that goes on whether or not anybody follows it; the job as it is then."""
        submission = self._submission("/jobs", body)
        patience = Patience()
        while True:
            try:
                return self._exchange(submission)
            except ServiceUnavailableError as error:
                patience.bear(error)

    def job(self, job_id: str) -> dict[str, Any]:
        """A job's state, and its response so far."""
        return self._exchange(self._http.build_request("GET", f"/jobs/{job_id}"))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job; the job as it is then. One that has ended stays as it is."""
        return self._exchange(self._http.build_request("DELETE", f"/jobs/{job_id}"))

    def _submission(self, path: str, body: Mapping[str, Any]) -> httpx.Request:
        """A request that can be sent twice and is obeyed once."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._http.build_request("POST", path, json=body, headers=headers)

    def _exchange(self, request: httpx.Request) -> dict[str, Any]:
        with translated(self._url):
            response = self._http.send(request)
        require_success(response)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise RequestRefusedError(f"What answers at {self._url} is not MiniVault.") from error
        return answer
