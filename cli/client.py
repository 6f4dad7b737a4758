"""The HTTP API from the client's side: one answer, or a stream that survives a lost connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx

from cli import sse
from shared.errors import MiniVaultError
from shared.settings import Settings

_TERMINAL: Final = ("done", "error", "cancelled")
_CONNECT_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 60.0
"""Longer than the service's pings are apart; after this a stream counts as lost."""
_RECONNECT_SECONDS: Final = 30.0
"""How long a lost stream is sought again before giving up."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


class ServiceUnavailableError(MiniVaultError):
    """The service can't answer now; trying again later may help."""

    code = "service_unavailable"


class RequestRefusedError(MiniVaultError):
    """The service refused the request."""

    code = "request_refused"


@dataclass(frozen=True)
class StreamEvent:
    """An event of a job; `data` as docs/architecture.md describes it."""

    name: str
    seq: int
    data: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What the event adds to the response."""
        return str(self.data.get("text", ""))


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
    """Use it as a context manager: it keeps a connection open."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        try:
            # A proxy in the environment is no way to one's own machine.
            self._http = httpx.Client(base_url=self._url, timeout=_CONNECT_SECONDS, trust_env=False)
        except httpx.InvalidURL as error:
            raise RequestRefusedError(f"{url} is no URL: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._http.close()

    def generate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer. Waits as long as it takes.

        Raises:
            ServiceUnavailableError: nobody answers, or not now.
            RequestRefusedError: the request is wrong.
        """
        timeout = httpx.Timeout(_CONNECT_SECONDS, read=None)
        try:
            response = self._http.post("/generate", json=body, timeout=timeout)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        _require_success(response)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise RequestRefusedError(f"What answers at {self._url} is not MiniVault.") from error
        return answer

    def stream(self, body: Mapping[str, Any]) -> Iterator[StreamEvent]:
        """The job's events, each once, up to its end.

        When the connection drops, the stream goes on from the last event received.

        Raises:
            ServiceUnavailableError: nobody answers, not now, or no more.
            RequestRefusedError: the request is wrong.
        """
        job, seq = "", 0
        deadline, pause = 0.0, _FIRST_PAUSE
        while True:
            try:
                for event in self._events(body, job, seq):
                    job = job or str(event.data["id"])
                    seq, deadline = event.seq, 0.0
                    yield event
                    if event.name in _TERMINAL:
                        return
            except httpx.TransportError as error:
                if not job:
                    raise self._unreachable(error) from error
            except ServiceUnavailableError:
                if not job:
                    raise
            if not deadline:
                deadline, pause = time.monotonic() + _RECONNECT_SECONDS, _FIRST_PAUSE
            if not job or time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"The stream of {job or 'the job'} was lost after event {seq}."
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _events(self, body: Mapping[str, Any], job: str, seq: int) -> Iterator[StreamEvent]:
        """One connection's worth: a new job, or what follows event `seq` of `job`."""
        request = (
            self._http.build_request(
                "GET", f"/jobs/{job}/events", headers={"Last-Event-ID": str(seq)}
            )
            if job
            else self._http.build_request("POST", "/generate/stream", json=body)
        )
        request.headers["Accept"] = "text/event-stream"
        request.extensions["timeout"] = httpx.Timeout(
            _CONNECT_SECONDS, read=_SILENCE_SECONDS
        ).as_dict()
        response = self._http.send(request, stream=True)
        try:
            _require_success(response)
            for event in sse.parse(response.iter_bytes()):
                number = int(event.id or 0)
                if number > seq:  # not a repetition, and not a remark without a number
                    seq = number
                    yield StreamEvent(event.name, number, json.loads(event.data))
        finally:
            response.close()

    def _unreachable(self, error: httpx.TransportError) -> MiniVaultError:
        if isinstance(error, httpx.UnsupportedProtocol):
            return RequestRefusedError(f"{self._url} is no URL of a service. Write http://...")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServiceUnavailableError(
                f"No service answers at {self._url}. Start it with `minivault up`, or pass --url."
            )
        return ServiceUnavailableError(f"The connection to {self._url} was lost: {error}")


def _require_success(response: httpx.Response) -> None:
    """Turn a problem document into an error that says what it says."""
    if response.is_success:
        return
    response.read()
    try:
        problem = response.json()
        detail = str(problem["detail"])
        fields = [f"{field['field']}: {field['message']}" for field in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError):
        detail, fields = f"{response.status_code} {response.reason_phrase}", []
    text = " ".join([detail, *fields])
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        text += f" Try again in {response.headers.get('Retry-After', 'a few')} seconds."
    busy = response.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
    raise (ServiceUnavailableError if busy else RequestRefusedError)(text)
