"""Streams that resume by themselves, for programs that wait and for programs that await.

What they do is decided in `cli.following`. These two only carry it out, line by line alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Self, TypeAlias

import httpx

from cli.calls import Call
from cli.events import Answer, Event
from cli.following import Following
from cli.patience import Pause
from cli.record import Record
from cli.transport import RequestRefusedError, ServiceUnavailableError, translated

OnPause: TypeAlias = Callable[[Pause], None]


class _Followed:
    """What both know of their job."""

    def __init__(self, following: Following, url: str, on_pause: OnPause) -> None:
        self._following = following
        self._url = url
        self._on_pause = on_pause
        self._record = Record()

    @property
    def job_id(self) -> str:
        """Empty until the first event."""
        return self._following.job_id

    @property
    def text(self) -> str:
        """The response, as far as it was iterated over."""
        return self._record.text

    def _pause(self, error: RequestRefusedError | ServiceUnavailableError) -> float:
        pause = self._following.failed(error)
        if pause is None:
            return 0
        self._on_pause(pause)
        return pause.seconds


class Stream(_Followed):
    """A job's events, each once and in order, up to its end. Iterate over it, once.

    Iterating raises ServiceUnavailableError if nobody answers, not now or no more, and
    RequestRefusedError if the request is wrong or the events have expired.
    """

    def __init__(
        self, http: httpx.Client, following: Following, url: str, on_pause: OnPause
    ) -> None:
        super().__init__(following, url, on_pause)
        self._http = http
        self._events = self._follow()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def texts(self) -> Iterator[str]:
        """The response as it grows."""
        return (event.text for event in self if event.text)

    def answer(self) -> Answer:
        """Follow to the end.

        Raises:
            JobFailedError: the job failed.
            JobCancelledError: it was cancelled.
        """
        for _ in self:
            pass
        return self._record.answer()

    def close(self) -> None:
        """Hang up. A job that is not in the background ends a while later."""
        self._events.close()

    def _follow(self) -> Generator[Event, None, None]:
        following = self._following
        while not following.is_over():
            try:
                with translated(self._url), self._opened(following.call()) as response:
                    if not response.is_success:
                        response.read()
                    following.opened(response)
                    for chunk in response.iter_bytes():
                        for event in following.received(chunk):
                            self._record.add(event)
                            yield event
                        if following.is_over():
                            return
                following.closed()
            except (RequestRefusedError, ServiceUnavailableError) as error:
                if pause := self._pause(error):
                    time.sleep(pause)

    def _opened(self, call: Call) -> AbstractContextManager[httpx.Response]:
        method, path, headers, body = call
        return self._http.stream(method, path, headers=headers, json=body)


class AsyncStream(_Followed):
    """As `Stream`, for asyncio."""

    def __init__(
        self, http: httpx.AsyncClient, following: Following, url: str, on_pause: OnPause
    ) -> None:
        super().__init__(following, url, on_pause)
        self._http = http
        self._events = self._follow()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    def texts(self) -> AsyncIterator[str]:
        """The response as it grows."""
        return (event.text async for event in self if event.text)

    async def answer(self) -> Answer:
        """Follow to the end.

        Raises:
            JobFailedError: the job failed.
            JobCancelledError: it was cancelled.
        """
        async for _ in self:
            pass
        return self._record.answer()

    async def close(self) -> None:
        """Hang up. A job that is not in the background ends a while later."""
        await self._events.aclose()

    async def _follow(self) -> AsyncGenerator[Event, None]:
        following = self._following
        while not following.is_over():
            try:
                with translated(self._url):
                    async with self._opened(following.call()) as response:
                        if not response.is_success:
                            await response.aread()
                        following.opened(response)
                        async for chunk in response.aiter_bytes():
                            for event in following.received(chunk):
                                self._record.add(event)
                                yield event
                            if following.is_over():
                                return
                following.closed()
            except (RequestRefusedError, ServiceUnavailableError) as error:
                if pause := self._pause(error):
                    await asyncio.sleep(pause)

    def _opened(self, call: Call) -> AbstractAsyncContextManager[httpx.Response]:
        method, path, headers, body = call
        return self._http.stream(method, path, headers=headers, json=body)
