"""The models of workers with a fake engine: there are files of none, and memory is what it is told.

A test says what models weigh and how they can be fetched with a file in the data folder, which
the workers read each time.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from shared.catalog import Catalog, ModelSpec, PathSource, load_catalog
from shared.errors import ModelUnavailableError
from shared.fleet import StockEntry
from shared.settings import Settings
from worker.conversion import Progress
from worker.memory import Memory, Need
from worker.stock import Stock

_FILE: Final = "fake-stock.json"


class FakeModel(msgspec.Struct, frozen=True):
    bytes: int = 0
    """That it takes once it is loaded."""
    ready: bool = True
    pull_seconds: float = 0
    pull_problem: str = ""
    pull_kills: int = 0
    """Workers that die in the middle of fetching it, one after the other."""


class FakeShelf(msgspec.Struct, frozen=True):
    available: int = 2**60
    """Bytes, if nothing is loaded."""
    models: dict[str, FakeModel] = {}


def write_stock(settings: Settings, shelf: FakeShelf) -> None:
    path = settings.data_dir / _FILE
    path.with_suffix(".new").write_bytes(msgspec.json.encode(shelf))
    path.with_suffix(".new").rename(path)


def change_model(settings: Settings, name: str, **changes: Any) -> None:
    shelf = read_stock(settings)
    model = msgspec.structs.replace(shelf.models.get(name, FakeModel()), **changes)
    write_stock(settings, msgspec.structs.replace(shelf, models=dict(shelf.models) | {name: model}))


def read_stock(settings: Settings) -> FakeShelf:
    path: Path = settings.data_dir / _FILE
    if not path.exists():
        return FakeShelf()
    return msgspec.json.decode(path.read_bytes(), type=FakeShelf)


class FakeStock(Stock):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._own = settings
        budget = read_stock(settings).available
        self.memory = Memory(budget, lambda: budget)

    def catalog(self) -> Catalog:
        """Also the models that the test has made up."""
        named = (*self._own.models, *read_stock(self._own).models)
        made_up = {name: ModelSpec(name, PathSource(f"/nowhere/{name}")) for name in named}
        return Catalog({**load_catalog(self._own), **made_up})

    def need(self, name: str) -> Need:
        found = self._model(name)
        if not found.ready:
            raise ModelUnavailableError(f"The model {name} is not on this machine.")
        return Need(found.bytes, 0, 0)

    def entries(self) -> list[StockEntry]:
        return [
            StockEntry(
                name=name,
                source=str(spec.source),
                ready=self._model(name).ready,
                bytes=self._model(name).bytes,
                memory=self._model(name).bytes,
            )
            for name, spec in self.catalog().items()
        ]

    def pull(self, name: str, progress: Progress, *, force: bool) -> None:
        model = self._model(name)
        if model.ready and not force:
            return
        until, total = time.monotonic() + model.pull_seconds, 1000
        while (left := until - time.monotonic()) > 0:
            done = int(total * (1 - left / model.pull_seconds))
            progress("Downloading", done, total)
            if model.pull_kills and done > total // 2:
                change_model(self._own, name, pull_kills=model.pull_kills - 1)
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)
        if model.pull_problem:
            raise ModelUnavailableError(model.pull_problem)
        change_model(self._own, name, ready=True)

    def _model(self, name: str) -> FakeModel:
        return read_stock(self._own).models.get(name, FakeModel())
