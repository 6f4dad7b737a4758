"""A job's events over as many connections as it takes: what to do next, without doing it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from cli import sse
from cli.calls import Call
from cli.events import Cancelled, Done, Event, Failed, NotMiniVaultError, Queued, event
from cli.patience import Patience, Pause
from cli.transport import RequestRefusedError, ServiceUnavailableError, require_success

_TERMINAL = (Done, Cancelled, Failed)


class Following:
    """Each event once, in order, up to the job's end.

    Whoever drives it makes one `call()` after the other until `is_over()`, and says how that
    went: `opened`, then `received` for each chunk, then `closed`; or `failed`, which says how long
    to wait.
    """

    def __init__(
        self,
        url: str,
        patience: Patience,
        *,
        submission: Call | None = None,
        job_id: str = "",
        after: int = 0,
    ) -> None:
        """`submission` is sent, again if its answer is lost, until the job's id is known.

        Without one, `job_id` is followed behind event `after`.
        """
        self._url = url
        self._patience = patience
        self._submission = submission
        self._seq = after
        self._ended = False
        """By the latest event. A failed job may be put back and go on, so it is no `over`."""
        self._given_up = ""
        self._parser = sse.Parser()
        self.job_id = job_id
        self._over = False

    def is_over(self) -> bool:
        """Nothing more is to be done."""
        return self._over

    def call(self) -> Call:
        """The next connection's request."""
        self._parser, self._given_up = sse.Parser(), ""
        if not self.job_id and self._submission is not None:
            return self._submission
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._seq)}
        return Call("GET", f"/jobs/{self.job_id}/events", headers)

    def opened(self, response: httpx.Response) -> None:
        """An answer begins; if it is no success, it has been read.

        Raises:
            ServiceUnavailableError: or what else it means.
        """
        require_success(response)
        if response.status_code == httpx.codes.NO_CONTENT:
            self._over = True
        elif not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise NotMiniVaultError(self._url)

    def received(self, chunk: bytes) -> Iterator[Event]:
        """What is new in it."""
        self._patience.sign_of_life()
        for said in self._parser.feed(chunk):
            seq = int(said.id) if said.id and said.id.isdecimal() else 0
            if 0 < seq <= self._seq:
                continue  # had it
            found = event(said.name, seq, said.data, self._url)
            if isinstance(found, Failed) and not seq:
                self._given_up = found.message  # the connection, not the job
                continue
            if seq:
                self._seq = seq
                self._ended = isinstance(found, _TERMINAL)
                self._over = isinstance(found, Done | Cancelled)
                if isinstance(found, Queued):
                    self.job_id = found.id
            self._patience.progress()
            yield found

    def closed(self) -> None:
        """The connection ended in order.

        Raises:
            ServiceUnavailableError: the job has not.
        """
        if not (self._over or self._ended):
            raise ServiceUnavailableError(
                self._given_up or "The stream ended before the job.", lost=True
            )
        self._over = True

    def failed(self, error: RequestRefusedError | ServiceUnavailableError) -> Pause | None:
        """The next call is worth making after this pause; None: it is over.

        Raises:
            ServiceUnavailableError: nobody answers, not now, or no more.
            RequestRefusedError: the request is wrong, or the events have expired.
        """
        if isinstance(error, RequestRefusedError):
            if not self._ended:  # else only whether more follows could not be learned
                raise error
            self._over = True
            return None
        try:
            return self._patience.bear(error)
        except ServiceUnavailableError:
            if self._ended:
                self._over = True
                return None
            if not self._seq:
                raise
            raise ServiceUnavailableError(
                f"The stream of {self.job_id} was lost after event {self._seq}."
            ) from error
