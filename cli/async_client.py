"""`cli.client.Client` for asyncio. What is asked and what it means is in `cli.calls` for both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from cli import calls
from cli.calls import Call
from cli.events import Answer, Job, Model
from cli.following import Following
from cli.patience import SECONDS, Patience
from cli.streams import AsyncStream, OnPause
from cli.transport import ServiceUnavailableError, translated

Messages = Sequence[Mapping[str, str]]


class AsyncClient:
    """As `Client`, method by method. Use it in one event loop."""

    def __init__(
        self,
        url: str = calls.LOCAL,
        *,
        api_key: str | None = None,
        patience: float = SECONDS,
        on_pause: OnPause = calls.unnoticed,
    ) -> None:
        """As `Client`."""
        self._url = url.rstrip("/")
        self._patience = patience
        self._on_pause = on_pause
        with translated(self._url):
            self._http = httpx.AsyncClient(**calls.connection(self._url, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def generate(
        self, prompt: str | None = None, *, messages: Messages | None = None, **fields: Any
    ) -> Answer:
        """As `Client.generate`."""
        async with self.stream(prompt, messages=messages, **fields) as stream:
            return await stream.answer()

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AsyncStream:
        """As `Client.stream`."""
        fields["messages"] = messages
        submission = calls.submission("/generate/stream", prompt, idempotency_key, fields)
        return self._follow(submission=submission)

    def events(self, job_id: str, after: int = 0) -> AsyncStream:
        """As `Client.events`."""
        return self._follow(job_id=job_id, after=after)

    async def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """As `Client.submit`."""
        fields["messages"] = messages
        submission = calls.submission("/jobs", prompt, idempotency_key, fields)
        patience = Patience(self._patience)
        while True:
            try:
                return calls.read_job(await self._send(submission), self._url)
            except ServiceUnavailableError as error:
                pause = patience.bear(error)
                self._on_pause(pause)
                await asyncio.sleep(pause.seconds)

    async def job(self, job_id: str) -> Job:
        """As `Client.job`."""
        return calls.read_job(await self._send(calls.job(job_id)), self._url)

    async def cancel(self, job_id: str) -> Job:
        """As `Client.cancel`."""
        return calls.read_job(await self._send(calls.cancellation(job_id)), self._url)

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return calls.read_models(await self._send(calls.models()), self._url)

    def _follow(self, **what: Any) -> AsyncStream:
        following = Following(self._url, Patience(self._patience), **what)
        return AsyncStream(self._http, following, self._url, self._on_pause)

    async def _send(self, call: Call) -> httpx.Response:
        method, path, headers, body = call
        with translated(self._url):
            return await self._http.request(method, path, headers=headers, json=body)
