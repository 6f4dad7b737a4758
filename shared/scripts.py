"""The Lua scripts in `shared/lua`: what must happen in Redis all at once or not at all."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.commands.core import AsyncScript, Script


def source(name: str) -> str:
    """The text of `shared/lua/<name>.lua`."""
    return (files("shared") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def load(redis: Redis, name: str) -> Script:
    """A script to be called with keys and arguments. Sent to the server on first use."""
    script: Any = redis.register_script(source(name))
    assert isinstance(script, Script)
    return script


def load_async(redis: AsyncRedis, name: str) -> AsyncScript:
    """As `load`, for asyncio."""
    script: Any = redis.register_script(source(name))
    assert isinstance(script, AsyncScript)
    return script
