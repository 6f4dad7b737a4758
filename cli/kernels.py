"""Kernels are compiled while models are fetched: the first start then finds them."""

from __future__ import annotations

from concurrent.futures import Future

from cli.progress import ModelProgress
from cli.report import Report
from shared.errors import KernelsUnavailableError
from shared.settings import Settings
from worker.engine.native.background import MEANWHILE, in_background, kernels_of, wanted
from worker.engine.native.kernels import Made


def begin(settings: Settings) -> Future[Made] | None:
    """Compile them on a thread; None if there is nothing to do. Ends with this process."""
    kernels = kernels_of(settings)
    if not wanted(settings) or kernels.find():
        return None
    return in_background(lambda: kernels.build(lambda _: None))


def finish(building: Future[Made] | None, say: Report, note: Report) -> None:
    """Wait for what `begin` returned. That there can be none is noted, and no error."""
    if building is None:
        return
    try:
        with ModelProgress("kernels", note) as progress:
            progress("Compiling for this CPU", 0, None)
            made = building.result()
    except KernelsUnavailableError as error:
        note(f"kernels: {error.detail} {MEANWHILE}")
    else:
        say(f"kernels for {made.level} are ready in {made.path}")
