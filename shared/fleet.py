"""What is asked of the workers about models, and what they say."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

import msgspec

from shared.errors import DecodeError


class LoadOrder(msgspec.Struct, frozen=True, tag="load"):
    """Have the model in memory."""

    id: str
    model: str


class UnloadOrder(msgspec.Struct, frozen=True, tag="unload"):
    """Put the model out of memory, once its jobs have ended."""

    id: str
    model: str


class Look(msgspec.Struct, frozen=True, tag="look"):
    """What all workers are to see to has changed: pins, pulls, the models served."""


Order: TypeAlias = LoadOrder | UnloadOrder | Look


class Answer(msgspec.Struct, frozen=True):
    """What became of an order: well, where there is no code."""

    worker: str
    code: str = ""
    message: str = ""


class StockEntry(msgspec.Struct, frozen=True):
    """A model of the catalog, as a worker has it."""

    name: str
    source: str
    ready: bool
    """It can be loaded without fetching anything."""
    bytes: int = 0
    """On disk."""
    memory: int = 0
    """Bytes that loading it takes."""
    memory_full: int = 0
    """Bytes that it has once its KV cache is full."""


class PullWish(msgspec.Struct, frozen=True):
    """That a model is fetched. Stays until some worker has, or can't."""

    id: str
    force: bool = False
    """Also where it is there already."""
    attempts: int = 0
    """Workers that have begun."""


class PullState(msgspec.Struct, frozen=True):
    """How far a pull has come."""

    id: str
    state: Literal["running", "done", "failed"]
    stage: str = ""
    done: int = 0
    """Bytes; 0 where nobody knows, as of `total`."""
    total: int | None = None
    code: str = ""
    message: str = ""


T = TypeVar("T")


def decode(raw: bytes | str, kind: type[T]) -> T:
    """One of the above.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise DecodeError(str(error)) from error


encode = msgspec.json.encode
