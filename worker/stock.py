"""The models that this worker could load: what they are, what is here, what they take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from shared.catalog import Catalog, ModelSpec, load_catalog
from shared.errors import CatalogError, ModelUnavailableError
from shared.fleet import StockEntry
from shared.settings import Settings
from worker import model_files
from worker.conversion import Progress
from worker.memory import SCRATCH, Memory, Need, available_on_gpu, available_on_host
from worker.models import context_of, device_and_dtype

_REMEDY: Final = (
    "Where this worker can't fetch it, do it where that is possible: "
    "`minivault models pull {name}` (beside the containers: "
    "`docker compose run --rm models models pull {name}`)."
)


class Stock:
    """Reads the catalog and the model folders again each time: both change at run time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.places = settings.max_loaded_models
        self.memory = Memory(int(settings.model_memory * 2**30), self._available)
        self._known: dict[Path, tuple[int, Need]] = {}
        """What folders need, and as of which time."""

    def catalog(self) -> Catalog:
        """As it is now.

        Raises:
            ModelUnavailableError: it can't be read.
        """
        try:
            return load_catalog(self._settings)
        except CatalogError as error:
            raise ModelUnavailableError(error.detail) from error

    def entries(self) -> list[StockEntry]:
        """Every model of the catalog; none while the catalog can't be read."""
        try:
            return [self._entry(spec) for spec in self.catalog().values()]
        except ModelUnavailableError:
            return []

    def need(self, name: str) -> Need:
        """What loading a model takes.

        Raises:
            MiniVaultError: there is no such model here; the message says what to do.
        """
        spec = self.catalog()[name]
        if not model_files.is_ready(spec, self._settings):
            model_files.verify(spec, self._settings)
        return self._need_of(spec)

    def pull(self, name: str, progress: Progress, *, force: bool) -> None:
        """Fetch and convert a model.

        Raises:
            MiniVaultError: it can't be done; the message says what to do.
        """
        spec = self.catalog()[name]
        try:
            model_files.ensure_model(spec, self._settings, progress, force=force)
        except ModelUnavailableError as error:
            raise ModelUnavailableError(
                f"{error.detail.rstrip('.')}. {_REMEDY.format(name=name)}"
            ) from error
        model_files.verify(spec, self._settings)

    def _available(self) -> int:
        device, _ = device_and_dtype(self._settings)
        return available_on_gpu() if device.type == "cuda" else available_on_host()

    def _entry(self, spec: ModelSpec) -> StockEntry:
        entry = StockEntry(name=spec.name, source=str(spec.source), ready=False)
        if not model_files.is_ready(spec, self._settings):
            return entry
        need = self._need_of(spec)
        files = [path for path in spec.folder(self._settings).iterdir() if path.is_file()]
        return StockEntry(
            name=spec.name,
            source=str(spec.source),
            ready=True,
            bytes=sum(path.stat().st_size for path in files),
            memory=need.at_once,
            memory_full=need.full,
        )

    def _need_of(self, spec: ModelSpec) -> Need:
        folder = spec.folder(self._settings)
        try:
            time = max(path.stat().st_mtime_ns for path in folder.iterdir())
            known = self._known.get(folder)
            if known is None or known[0] != time:
                known = self._known[folder] = time, self._appraise(folder)
        except Exception:  # noqa: BLE001  (what is wrong with it is told by whoever loads it)
            return Need(0, 0, 0)
        return known[1]

    def _appraise(self, folder: Path) -> Need:
        from transformers import AutoConfig  # noqa: PLC0415  (takes seconds, as the next)

        from worker.engine.gpu.forward import TOKENS  # noqa: PLC0415
        from worker.engine.shape import (  # noqa: PLC0415
            kv_bytes,
            native_kv_bytes,
            packed_scratch,
        )
        from worker.paths import in_int8  # noqa: PLC0415

        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        slots = self._settings.slots
        context = context_of(config, self._settings)
        device, dtype = device_and_dtype(self._settings)
        size = dtype.itemsize
        if in_int8(self._settings, config, device):
            kv = native_kv_bytes(config, slots, context)
        else:
            kv = kv_bytes(config, slots, context, size)
        gone_by = self._settings.prefix_cache_mb * 2**20
        is_on_gpu = device.type == "cuda"
        return Need(
            weights=sum(_parameters(path) for path in folder.glob("*.safetensors")) * size,
            kv=kv + gone_by,
            kv_at_once=kv // slots if device.type == "cpu" else kv + gone_by,
            scratch=packed_scratch(config, slots, TOKENS[-1]) if is_on_gpu else SCRATCH,
        )


def _parameters(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(each["shape"]) for key, each in header.items() if key != "__metadata__")
