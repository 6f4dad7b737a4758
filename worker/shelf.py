"""The models in memory: which are loaded, which runs wait for one, which one has to go."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from shared.errors import MiniVaultError, ModelUnavailableError
from shared.logging import get_logger
from worker.models import LoadedModel, Loader
from worker.run import Run

LoadResult: TypeAlias = LoadedModel | MiniVaultError
"""The model, or why there is none."""


class ModelShelf:
    """Belongs to the engine's thread; models are loaded on threads beside it."""

    def __init__(
        self, loader: Loader, max_loaded: int, on_loaded: Callable[[str, LoadResult], None]
    ) -> None:
        """`on_loaded` is called on the loader's thread; whoever hears it calls `put`."""
        self._loader = loader
        self._max_loaded = max_loaded
        self._on_loaded = on_loaded
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        """Least recently used first."""
        self._loading: str | None = None
        self._waiting: defaultdict[str, list[Run]] = defaultdict(list)
        """Runs by the model they wait for."""

    def __iter__(self) -> Iterator[LoadedModel]:
        """From any thread."""
        return iter(list(self._models.values()))

    def get(self, name: str) -> LoadedModel | None:
        return self._models.get(name)

    def preload(self, name: str) -> None:
        """Load a model before anything else is done.

        On a thread that ends with it, like every load. OpenMP keeps a team of threads for each
        thread that has ever computed; once there are more of them than cores, all teams go to
        sleep after every operation instead of waiting for the next one.

        Raises:
            ModelUnavailableError: it can't be loaded.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as thread:
            self._models[name] = thread.submit(self._loader, name).result()

    def touch(self, model: LoadedModel) -> None:
        """It is used."""
        self._models.move_to_end(model.name)

    def discard(self, model: LoadedModel) -> None:
        del self._models[model.name]

    def wait(self, run: Run) -> None:
        self._waiting[run.request.model].append(run)

    def waiting(self) -> list[Run]:
        return [run for runs in self._waiting.values() for run in runs]

    def forget(self, run: Run) -> bool:
        """Whether it waited, which it does no more."""
        runs = self._waiting[run.request.model]
        if run not in runs:
            return False
        runs.remove(run)
        return True

    def owes_its_place(self, model: LoadedModel) -> bool:
        """Another model waits for the place of this one, which gets no new runs until then."""
        return (
            self._wanted() is not None
            and len(self._models) >= self._max_loaded
            and next(iter(self._models)) == model.name
        )

    def load_next(self) -> list[Run]:
        """Begin to load a model that runs wait for, if there is room or an idle one can go.

        Returns runs that have nothing to wait for any more.
        """
        if self._loading is not None:
            return []
        wanted = self._wanted()
        if wanted is None:
            return [run for name in self._models for run in self._waiting.pop(name, [])]
        if len(self._models) >= self._max_loaded:
            idle = [name for name, model in self._models.items() if not model.engine.has_work]
            if not idle:
                return []
            get_logger().info("model unloaded", model=idle[0])
            del self._models[idle[0]]
        self._loading = wanted
        threading.Thread(target=self._load, args=(wanted,), name="loader", daemon=True).start()
        return []

    def put(self, name: str, loaded: LoadResult) -> list[Run]:
        """A model has come in, or can't; returns the runs that waited for it."""
        self._loading = None
        if not isinstance(loaded, MiniVaultError):
            get_logger().info("model loaded", model=name)
            self._models[name] = loaded
        return self._waiting.pop(name, [])

    def _wanted(self) -> str | None:
        """The model that runs have waited for longest, of those that are not loaded."""
        waiting = (name for name, runs in self._waiting.items() if runs)
        return next((name for name in waiting if name not in self._models), None)

    def _load(self, name: str) -> None:
        """On the loader's thread."""
        loaded: LoadResult
        try:
            loaded = self._loader(name)
        except MiniVaultError as error:
            loaded = error
        except Exception as error:  # noqa: BLE001  (a thread's last word must reach the loop)
            get_logger().exception("loading failed", model=name)
            loaded = ModelUnavailableError(f"Model {name!r} can't be loaded: {error}")
        self._on_loaded(name, loaded)
