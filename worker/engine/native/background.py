"""Kernels for an engine that has begun without them."""

from __future__ import annotations

import ctypes
import threading
import time
from concurrent.futures import Future
from typing import Final

from shared.errors import KernelsUnavailableError
from shared.logging import get_logger
from shared.settings import Settings
from worker.engine.native.kernels import Kernels, Made
from worker.engine.native.library import load

_MEANWHILE: Final = "The eager path serves meanwhile, which is slower."


def kernels_of(settings: Settings) -> Kernels:
    """Beside the models: carried to another machine or cleared together with them."""
    return Kernels(settings.models_dir / ".kernels")


def prepare(kernels: Kernels) -> Future[ctypes.CDLL]:
    """The library: at once if it is there, else from a thread that compiles it first.

    Its exception is a KernelsUnavailableError, and has been logged.
    """
    ready: Future[ctypes.CDLL] = Future()
    started = time.monotonic()

    def get(made: Made | None) -> None:
        try:
            made = made or kernels.build(_log)
            library = load(made.path)
        except KernelsUnavailableError as error:
            get_logger().warning("kernels unavailable", reason=f"{error.detail} {_MEANWHILE}")
            ready.set_exception(error)
        except Exception as error:  # noqa: BLE001  (whoever waits must hear of it)
            get_logger().exception("kernels unavailable", reason=_MEANWHILE)
            ready.set_exception(KernelsUnavailableError(f"{type(error).__name__}: {error}"))
        else:
            seconds = round(time.monotonic() - started, 2)
            get_logger().info("kernels ready", source=made.source, isa=made.level, seconds=seconds)
            ready.set_result(library)

    if found := kernels.find():
        get(found)
    else:
        threading.Thread(target=get, args=(None,), name="kernels", daemon=True).start()
    return ready


def _log(stage: str) -> None:
    get_logger().info(stage[0].lower() + stage[1:])
