"""Kernels for an engine that has begun without them."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from shared.errors import KernelsUnavailableError
from shared.logging import get_logger
from shared.settings import Settings
from worker.engine.native.kernels import Kernels, Made
from worker.engine.native.library import load

MEANWHILE: Final = "The eager path serves meanwhile, which is slower."

T = TypeVar("T")


def wanted(settings: Settings) -> bool:
    """Whether models run where kernels would be used, as far as the settings tell."""
    return settings.device in ("auto", "cpu") and settings.dtype in ("auto", "int8")


def kernels_of(settings: Settings) -> Kernels:
    """Beside the models: carried to another machine or cleared together with them."""
    return Kernels(settings.models_dir / ".kernels")


def prepare(kernels: Kernels) -> Future[ctypes.CDLL]:
    """The library: at once if it is there, else from a thread that compiles it first.

    Its exception is a KernelsUnavailableError, and has been logged.
    """
    if not (found := kernels.find()):
        return in_background(lambda: _loaded(lambda: kernels.build(_log)))
    ready: Future[ctypes.CDLL] = Future()
    _settle(ready, lambda: _loaded(lambda: found))
    return ready


def in_background(work: Callable[[], T]) -> Future[T]:
    """What `work` returns or raises, from a thread that keeps nobody from ending."""
    result: Future[T] = Future()
    threading.Thread(target=_settle, args=(result, work), name="kernels", daemon=True).start()
    return result


def _settle(result: Future[T], work: Callable[[], T]) -> None:
    try:
        result.set_result(work())
    except Exception as error:  # noqa: BLE001  (whoever waits must hear of it)
        result.set_exception(error)


def _loaded(get: Callable[[], Made]) -> ctypes.CDLL:
    started = time.monotonic()
    try:
        made = get()
        library = load(made.path)
    except KernelsUnavailableError as error:
        get_logger().warning("kernels unavailable", reason=f"{error.detail} {MEANWHILE}")
        raise
    except Exception as error:
        get_logger().exception("kernels unavailable", reason=MEANWHILE)
        raise KernelsUnavailableError(f"{type(error).__name__}: {error}") from error
    seconds = round(time.monotonic() - started, 2)
    get_logger().info("kernels ready", source=made.source, isa=made.level, seconds=seconds)
    return library


def _log(stage: str) -> None:
    get_logger().info(stage[0].lower() + stage[1:])
