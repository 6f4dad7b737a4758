"""MiniVault from a program: `Client`, and `AsyncClient` for asyncio. See docs/client.md.

Needs httpx and msgspec, and no part of the service.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from cli import calls
from cli.async_client import AsyncClient
from cli.calls import Call
from cli.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Job,
    Loading,
    Model,
    NotMiniVaultError,
    Queued,
    Resumed,
    Started,
    Token,
)
from cli.following import Following
from cli.patience import ENDLESS, SECONDS, Patience, Pause
from cli.record import JobCancelledError, JobFailedError
from cli.streams import AsyncStream, OnPause, Stream
from cli.transport import RequestRefusedError, ServiceUnavailableError, translated

if TYPE_CHECKING:
    from shared.settings import Settings

__all__ = [
    "ENDLESS",
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Client",
    "Done",
    "Event",
    "Failed",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "Loading",
    "Model",
    "NotMiniVaultError",
    "Pause",
    "Queued",
    "RequestRefusedError",
    "Resumed",
    "ServiceUnavailableError",
    "Started",
    "Stream",
    "Token",
    "is_ready",
    "service_url",
]

Messages = Sequence[Mapping[str, str]]


def service_url(settings: Settings) -> str:
    """Where this machine reaches the API that the settings describe."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def is_ready(url: str) -> bool:
    """Whether a service of this machine (`service_url`) answers there and says it is ready.

    Trusts no certificate, for there is none: reading those of the system takes longer than all
    the rest, and `up` asks again and again while what it asks for needs the processor.
    """
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False, verify=nobody).is_success
    except httpx.TransportError:
        return False


class Client:
    """Use it as a context manager: it keeps connections open. Threads may share it.

    Every method raises ServiceUnavailableError if nobody answers, or not now, and
    RequestRefusedError if the request is wrong.
    """

    def __init__(
        self,
        url: str = calls.LOCAL,
        *,
        api_key: str | None = None,
        patience: float = SECONDS,
        on_pause: OnPause = calls.unnoticed,
    ) -> None:
        """`api_key`: None takes MINIVAULT_API_KEY from the environment, if it is there.

        `patience` is for how many seconds a service that went away is sought; ENDLESS: for ever,
        also one that was never there. `on_pause` is told of every wait for it.
        """
        self._url = url.rstrip("/")
        self._patience = patience
        self._on_pause = on_pause
        with translated(self._url):
            self._http = httpx.Client(**calls.connection(self._url, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def generate(
        self, prompt: str | None = None, *, messages: Messages | None = None, **fields: Any
    ) -> Answer:
        """The whole answer to a prompt or a conversation; `fields` as `POST /generate` has them.

        Raises:
            JobFailedError: the job failed.
            JobCancelledError: somebody cancelled it.
        """
        with self.stream(prompt, messages=messages, **fields) as stream:
            return stream.answer()

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Stream:
        """Submit a job and follow it; nothing is sent before the first event is asked for.

        When the connection drops, the stream goes on behind the last event received.
        """
        fields["messages"] = messages
        submission = calls.submission("/generate/stream", prompt, idempotency_key, fields)
        return self._follow(submission=submission)

    def events(self, job_id: str, after: int = 0) -> Stream:
        """As `stream`, of a job that was submitted before, behind event `after`."""
        return self._follow(job_id=job_id, after=after)

    def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit a job that goes on whether or not anybody follows it; the job as it is then.

        Sent again under the same `idempotency_key`, it is the same job.
        """
        fields["messages"] = messages
        submission = calls.submission("/jobs", prompt, idempotency_key, fields)
        patience = Patience(self._patience)
        while True:
            try:
                return calls.read_job(self._send(submission), self._url)
            except ServiceUnavailableError as error:
                pause = patience.bear(error)
                self._on_pause(pause)
                time.sleep(pause.seconds)

    def job(self, job_id: str) -> Job:
        """A job's state, and its response so far."""
        return calls.read_job(self._send(calls.job(job_id)), self._url)

    def cancel(self, job_id: str) -> Job:
        """End a job; the job as it is then. One that has ended stays as it is."""
        return calls.read_job(self._send(calls.cancellation(job_id)), self._url)

    def models(self) -> list[Model]:
        """What can be asked for."""
        return calls.read_models(self._send(calls.models()), self._url)

    def _follow(self, **what: Any) -> Stream:
        following = Following(self._url, Patience(self._patience), **what)
        return Stream(self._http, following, self._url, self._on_pause)

    def _send(self, call: Call) -> httpx.Response:
        method, path, headers, body = call
        with translated(self._url):
            return self._http.request(method, path, headers=headers, json=body)
