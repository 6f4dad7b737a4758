"""The official SDK, pointed at a service under test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from openai import AsyncOpenAI, OpenAI


@contextmanager
def sdk(url: str, **options: Any) -> Iterator[OpenAI]:
    """It tells failures instead of trying again."""
    usual: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 60}
    with OpenAI(base_url=f"{url}/v1", **usual | options) as client:
        yield client


@asynccontextmanager
async def async_sdk(url: str, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    usual: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 60}
    async with AsyncOpenAI(base_url=f"{url}/v1", **usual | options) as client:
        yield client
