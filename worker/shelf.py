"""The models in memory: which are loaded, who waits for one, which one has to go."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeAlias

from shared.errors import MiniVaultError, ModelUnavailableError, NoPlaceError
from shared.logging import get_logger
from worker.memory import Memory, Need
from worker.models import LoadedModel, Loader
from worker.priority import stand_back
from worker.run import Run

LoadResult: TypeAlias = LoadedModel | MiniVaultError
"""The model, or why there is none."""
Told: TypeAlias = Callable[[MiniVaultError | None], None]
"""Called once with how something ended: well, or why not."""


class Room(Protocol):
    """How much there is for models."""

    @property
    def places(self) -> int:
        """Models that may be loaded at once."""
        ...

    @property
    def memory(self) -> Memory: ...

    def need(self, name: str) -> Need:
        """What a model will take.

        Raises:
            MiniVaultError: it can't be told, because the model can't be loaded.
        """
        ...


class Resident(NamedTuple):
    """A model in memory, as other threads see it."""

    name: str
    busy: bool
    since: float
    """On the monotonic clock."""


class ModelShelf:
    """Belongs to the engine's thread; models are loaded on threads beside it."""

    def __init__(
        self, loader: Loader, room: Room, on_loaded: Callable[[str, LoadResult], None]
    ) -> None:
        """`on_loaded` is called on the loader's thread; whoever hears it calls `put`."""
        self._loader = loader
        self._room = room
        self._on_loaded = on_loaded
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        """Least recently used first."""
        self._since: dict[str, float] = {}
        self._needs: dict[str, Need] = {}
        """Of the loaded ones."""
        self._loading: str | None = None
        self._waiting: defaultdict[str, list[Run]] = defaultdict(list)
        """Runs by the model they wait for."""
        self._asked: defaultdict[str, list[Told]] = defaultdict(list)
        """Who else waits for one."""
        self._leaving: dict[str, list[Told]] = {}
        """Models that are to go once they are idle, and who wants to know."""
        self._giving_way: str | None = None
        self.pinned: frozenset[str] = frozenset()
        """Never put out. Set from any thread, as the next."""
        self.expendable: str | None = None
        """Goes first, if one has to go for another."""
        self.swaps = 0
        self.refused: dict[str, float] = {}
        """Models that did not fit, and when, on the monotonic clock."""

    def __iter__(self) -> Iterator[LoadedModel]:
        """From any thread."""
        return iter(list(self._models.values()))

    @property
    def residents(self) -> list[Resident]:
        """From any thread."""
        return [
            Resident(model.name, model.engine.has_work, self._since.get(model.name, 0.0))
            for model in self
        ]

    @property
    def coming(self) -> tuple[str, ...]:
        """Models that somebody waits for. From any thread."""
        waiting = [*list(self._waiting.items()), *list(self._asked.items())]
        return tuple(name for name, who in waiting if who and name not in self._models)

    @property
    def going(self) -> tuple[str, ...]:
        """Models that should get no more runs. From any thread."""
        giving_way = self._giving_way
        return (*self._leaving, *([giving_way] if giving_way else []))

    def has_room(self, name: str) -> bool:
        """Whether a model can come in and all others stay. From any thread."""
        resident = [self._needs[each.name] for each in self]
        try:
            return len(resident) < self._room.places and not self._room.memory.lacks(
                self._room.need(name), resident
            )
        except MiniVaultError:  # told to those who wait for it
            return True

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
        need = self._room.need(name)
        if lacking := self._room.memory.lacks(need, ()):
            raise self._room.memory.refusal(name, need, lacking)
        with ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=stand_back) as thread:
            model = thread.submit(self._loader, name).result()
        self._needs[name] = need
        self._take_in(model)

    def touch(self, model: LoadedModel) -> None:
        """It is used."""
        self._models.move_to_end(model.name)

    def discard(self, model: LoadedModel) -> None:
        del self._models[model.name]
        for told in self._leaving.pop(model.name, []):
            told(None)

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

    def ask(self, name: str, told: Told) -> None:
        """Have a model loaded though no run waits for it."""
        if name in self._models and name not in self._leaving:
            told(None)
        else:
            self._asked[name].append(told)

    def let_go(self, name: str, told: Told) -> None:
        """Have a model unloaded once its runs have ended; those that come meanwhile wait."""
        if name in self._models:
            self._leaving.setdefault(name, []).append(told)
        else:
            told(None)

    def takes_no_more(self, model: LoadedModel) -> bool:
        """It is to go, or another model waits for its place."""
        return model.name in self.going

    def load_next(self) -> list[Run]:
        """Begin to load a model that is waited for, if there is room or an idle one can go.

        Returns runs that have nothing to wait for any more.
        """
        for name in [name for name in self._leaving if not self._models[name].engine.has_work]:
            self._unload(name)
        if self._loading is not None:
            return []
        self._giving_way = None
        wanted = self._wanted()
        if wanted is None:
            return [
                run
                for name in self._models
                if name not in self._leaving
                for run in self._waiting.pop(name, [])
            ]
        try:
            if self._make_room(wanted):
                self._loading = wanted
                thread = threading.Thread(
                    target=self._load, args=(wanted,), name="loader", daemon=True
                )
                thread.start()
        except MiniVaultError as error:
            self._loading = wanted
            self._on_loaded(wanted, error)  # heard in its turn, as from a thread
        return []

    def put(self, name: str, loaded: LoadResult) -> list[Run]:
        """A model has come in, or can't; returns the runs that waited for it."""
        self._loading = None
        error = loaded if isinstance(loaded, MiniVaultError) else None
        if isinstance(loaded, LoadedModel):
            get_logger().info("model loaded", model=name)
            self._take_in(loaded)
        for told in self._asked.pop(name, []):
            told(error)
        return self._waiting.pop(name, [])

    def _take_in(self, model: LoadedModel) -> None:
        self._since[model.name] = time.monotonic()
        self._models[model.name] = model
        self.refused.pop(model.name, None)

    def _wanted(self) -> str | None:
        """The model that was waited for first, of those that are not loaded."""
        return next(iter(self.coming), None)

    def _make_room(self, wanted: str) -> bool:
        """Whether there is room by now. If not, one that is busy gives way.

        Raises:
            MiniVaultError: there never is, or what the model needs can't be told.
        """
        room = self._room
        need = self._needs[wanted] = room.need(wanted)
        while True:
            unpinned = [name for name in self._models if name not in self.pinned]
            resident = [self._needs[name] for name in self._models]
            leaving = [self._needs[name] for name in unpinned]
            if lacking := room.memory.lacks(need, resident, leaving):
                self.refused[wanted] = time.monotonic()
                raise room.memory.refusal(wanted, need, lacking)
            if len(self._models) < room.places and not room.memory.lacks(need, resident):
                return True
            if not unpinned:
                raise NoPlaceError
            victim = min(unpinned, key=self._last_to_go)
            if self._models[victim].engine.has_work:
                self._giving_way = victim
                return False
            self.swaps += 1
            self._unload(victim)

    def _last_to_go(self, name: str) -> tuple[bool, bool]:
        """The least goes first; of equals the least recently used."""
        return self._models[name].engine.has_work, name != self.expendable

    def _unload(self, name: str) -> None:
        get_logger().info("model unloaded", model=name)
        self.discard(self._models[name])

    def _load(self, name: str) -> None:
        """On the loader's thread."""
        stand_back()
        loaded: LoadResult
        try:
            loaded = self._loader(name)
        except MiniVaultError as error:
            loaded = error
        except Exception as error:  # noqa: BLE001  (a thread's last word must reach the loop)
            get_logger().exception("loading failed", model=name)
            loaded = ModelUnavailableError(f"Model {name!r} can't be loaded: {error}")
        self._on_loaded(name, loaded)
