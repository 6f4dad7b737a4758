"""What has to be there before anything is measured."""

from __future__ import annotations

from shared.catalog import load_catalog
from shared.errors import KernelsUnavailableError
from shared.settings import Settings
from worker.engine.native import background
from worker.model_files import ensure_model


def prepare(settings: Settings) -> None:
    """Have the default model and compiled kernels, lest the first run measures what is slower."""
    settings.prepare_data_dir()
    ensure_model(load_catalog(settings)[settings.default_model], settings, lambda *_: None)
    if background.wanted(settings):
        try:
            background.prepare(background.kernels_of(settings)).result()
        except KernelsUnavailableError as error:
            print(f"Measured without kernels: {error}")
