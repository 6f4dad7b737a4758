"""`AsyncClient` with the surface of `Client`, so that one test is a test of both."""

import asyncio
import inspect
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from cli.client import AsyncClient, AsyncStream, Event


class AwaitingClient:
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made = method(*arguments, **options)
            if inspect.isawaitable(made):
                return self._loop.run_until_complete(made)
            return AwaitingStream(self._loop, made)

        return call


class AwaitingStream:
    def __init__(self, loop: asyncio.AbstractEventLoop, stream: AsyncStream) -> None:
        self._loop = loop
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loop.run_until_complete(self._stream.close())

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            return self._loop.run_until_complete(anext(self._stream))
        except StopAsyncIteration:
            raise StopIteration from None

    def texts(self) -> Iterator[str]:
        texts = self._stream.texts()
        while True:
            try:
                yield self._loop.run_until_complete(anext(texts))
            except StopAsyncIteration:
                return

    def answer(self) -> Any:
        return self._loop.run_until_complete(self._stream.answer())

    @property
    def job_id(self) -> str:
        return self._stream.job_id

    @property
    def text(self) -> str:
        return self._stream.text
