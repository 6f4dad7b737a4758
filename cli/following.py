"""A job's events over as many connections as it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from cli import sse
from cli.patience import Patience
from cli.transport import (
    RequestRefusedError,
    ServiceUnavailableError,
    require_success,
    translated,
)

_FINAL: Final = ("done", "cancelled")
_TERMINAL: Final = (*_FINAL, "error")
"""A failed job may be put back, so an `error` is the end only if nothing follows it."""


@dataclass(frozen=True)
class StreamEvent:
    """An event of a job; `data` as docs/architecture.md describes it."""

    name: str
    seq: int
    """0: a remark beside the job's log, like a new position in the queue."""
    data: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What the event adds to the response."""
        return str(self.data.get("text", ""))


class Following:
    """Each event once, in order, up to the job's end. Iterate over it."""

    def __init__(
        self,
        http: httpx.Client,
        *,
        submission: httpx.Request | None = None,
        job_id: str = "",
        after: int = 0,
    ) -> None:
        """`submission` is sent, again if its answer is lost, until the job's id is known.

        Without one, `job_id` is followed behind event `after`.
        """
        self._http = http
        self._url = str(http.base_url).rstrip("/")
        self._submission = submission
        self._job_id = job_id
        self._seq = after
        self._ended = False
        self._patience = Patience()

    def __iter__(self) -> Iterator[StreamEvent]:
        """Follow.

        Raises:
            ServiceUnavailableError: nobody answers, not now, or no more.
            RequestRefusedError: the request is wrong, or the events have expired.
        """
        while True:
            try:
                for event in self._connection():
                    self._patience.progress()
                    yield event
                    if event.seq and event.name in _FINAL:
                        return
            except RequestRefusedError:
                if not self._ended:  # else only whether more follows could not be learned
                    raise
            except ServiceUnavailableError as error:
                if self._bear(error):
                    continue
            return

    def _bear(self, error: ServiceUnavailableError) -> bool:
        """Wait before the next connection; False if none is worth it."""
        try:
            self._patience.bear(error)
        except ServiceUnavailableError:
            if self._ended:
                return False
            if not self._seq:
                raise
            raise ServiceUnavailableError(
                f"The stream of {self._job_id} was lost after event {self._seq}."
            ) from error
        return True

    def _connection(self) -> Iterator[StreamEvent]:
        """One connection's worth: what is new. It ends normally only at the job's end."""
        with translated(self._url):
            response = self._http.send(self._request(), stream=True)
            try:
                require_success(response)
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise RequestRefusedError(f"What answers at {self._url} is not MiniVault.")
                yield from self._new_events(response)
            finally:
                response.close()
        if not self._ended:
            raise ServiceUnavailableError("The stream ended before the job.", lost=True)

    def _new_events(self, response: httpx.Response) -> Iterator[StreamEvent]:
        for event in sse.parse(self._bytes(response)):
            if event.id is None and event.name == "error":
                return  # the service gives this connection up, not the job
            seq = int(event.id or 0)
            if 0 < seq <= self._seq:
                continue  # had it
            data = json.loads(event.data)
            if seq:
                self._seq = seq
                self._job_id = self._job_id or str(data["id"])
                self._ended = event.name in _TERMINAL
            yield StreamEvent(event.name, seq, data)

    def _bytes(self, response: httpx.Response) -> Iterator[bytes]:
        for chunk in response.iter_bytes():
            self._patience.sign_of_life()
            yield chunk

    def _request(self) -> httpx.Request:
        if not self._job_id and self._submission is not None:
            return self._submission
        return self._http.build_request(
            "GET",
            f"/jobs/{self._job_id}/events",
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(self._seq)},
        )
