"""The thread that owns the engines: admits runs, steps, and passes on what comes out."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared.errors import GenerationError, MiniVaultError, ModelUnavailableError
from shared.events import FinishReason, Token
from shared.logging import get_logger
from worker.engine.base import Output
from worker.models import LoadedModel, Loader
from worker.publisher import Publisher
from worker.run import Outcome, Run, loading
from worker.thread import SideThread

_ADMIT_SECONDS: Final = 0.02
_MAX_OPENING: Final = 8
"""Runs between their start and their first token: if this worker dies, few are suspected."""


@dataclass(frozen=True)
class _Submit:
    run: Run


@dataclass(frozen=True)
class _Drop:
    run: Run
    outcome: Outcome | None


@dataclass(frozen=True)
class _Loaded:
    name: str
    result: LoadedModel | MiniVaultError


class _Stop:
    pass


_Command: TypeAlias = _Submit | _Drop | _Loaded | _Stop


class EngineLoop(SideThread):
    """Steps every engine that has work; models are loaded beside it, so streams run on."""

    def __init__(
        self,
        *,
        loader: Loader,
        publisher: Publisher,
        max_loaded_models: int,
        accuse: Callable[[Run], None],
        on_crash: Callable[[], None],
    ) -> None:
        """`accuse` is called before a suspect is touched, and returns when that is written down."""
        super().__init__("engine", on_crash)
        self._loader = loader
        self._publisher = publisher
        self._max_loaded = max_loaded_models
        self._accuse = accuse
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        """Least recently used first."""
        self._loading: str | None = None
        self._waiting: defaultdict[str, list[Run]] = defaultdict(list)
        """Runs by the model they wait for."""
        self._line: deque[Run] = deque()
        """Runs whose model is loaded, in the order in which they start."""
        self._runs: dict[str, Run] = {}
        """Runs inside an engine, by key."""
        self._opening: set[str] = set()
        """Those of them that have no token from this attempt yet."""
        self._stopping = False

    def preload(self, name: str) -> None:
        """Load a model before the thread starts.

        On a thread that ends with it, like every load. OpenMP keeps a team of threads for each
        thread that has ever computed; once there are more of them than cores, all teams go to
        sleep after every operation instead of waiting for the next one.

        Raises:
            ModelUnavailableError: it can't be loaded.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as thread:
            self._models[name] = thread.submit(self._loader, name).result()

    def submit(self, run: Run) -> None:
        self._commands.put(_Submit(run))

    def drop(self, run: Run) -> None:
        """Forget a run, in whatever state it is, without ending its log."""
        self._commands.put(_Drop(run, None))

    def cancel(self, run: Run) -> None:
        """End a run as cancelled, unless it has ended; its slot is free before the next step."""
        self._commands.put(_Drop(run, Outcome(FinishReason.CANCELLED)))

    def stop(self) -> list[Run]:
        """End the thread; returns the runs that were not finished."""
        self._commands.put(_Stop())
        self.join()
        waiting = (run for runs in self._waiting.values() for run in runs)
        return [*self._runs.values(), *self._line, *waiting]

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def kv_bytes(self) -> int:
        return sum(model.engine.kv_bytes for model in list(self._models.values()))

    def run(self) -> None:
        while not self._stopping:
            self._turn()
            self._load_next()

    def _turn(self) -> None:
        """In a frame of its own: a model that is unloaded next must not be held by a name here."""
        busy = [model for model in self._models.values() if model.engine.has_work]
        self._obey(block=not busy and not self._line)
        for model in busy:
            self._step(model)
        self._open()

    def _obey(self, *, block: bool) -> None:
        """Carry out the commands that wait; if there is nothing to compute, wait for one.

        Not all of them at once where streams run: long prompts take their time to tokenize.
        """
        until = time.monotonic() + _ADMIT_SECONDS
        while block or (not self._commands.empty() and time.monotonic() < until):
            block = False
            match self._commands.get():
                case _Submit(run):
                    self._admit(run)
                case _Drop(run, outcome):
                    self._drop(run, outcome)
                case _Loaded(name, result):
                    self._take_model(name, result)
                case _Stop():
                    self._stopping = True
                    return

    def _admit(self, run: Run) -> None:
        model = self._models.get(run.request.model)
        if model is None:
            if run.suspect:  # loading can kill, too
                self._accuse(run)
            self._publisher.publish(run, [loading(run)])
            self._waiting[run.request.model].append(run)
            self._load_next()
            return
        if self._owes_its_place(model):
            self._waiting[model.name].append(run)
            return
        self._line.append(run)
        self._open()

    def _open(self) -> None:
        """Start runs that wait in line, while few enough are being started."""
        while self._line and self._may_open(self._line[0]):
            run = self._line.popleft()
            model = self._models.get(run.request.model)
            if model is None:  # unloaded meanwhile
                self._admit(run)
            else:
                self._enter(model, run)

    def _may_open(self, run: Run) -> bool:
        """Suspects open alone: if the worker dies, it is clear of which one."""
        if run.suspect or any(self._runs[key].suspect for key in self._opening):
            return not self._opening
        return len(self._opening) < _MAX_OPENING

    def _enter(self, model: LoadedModel, run: Run) -> None:
        self._models.move_to_end(model.name)
        if run.suspect:
            self._accuse(run)
        try:
            run.encoded(model.prompts.encode(run.request))
            opening = run.opening()
            model.engine.add(run.for_engine())
        except MiniVaultError as error:
            self._publisher.end(run, Outcome(FinishReason.ERROR, error))
            return
        except Exception:  # noqa: BLE001  (a tokenizer may stumble over one prompt, not over all)
            get_logger().exception("prompt failed", job=run.id)
            self._publisher.end(run, Outcome(FinishReason.ERROR, GenerationError()))
            return
        self._runs[run.key] = run
        self._opening.add(run.key)
        self._publisher.publish(run, opening)

    def _step(self, model: LoadedModel) -> None:
        try:
            outputs = model.engine.step()
        except Exception:  # noqa: BLE001  (whatever it was, only this engine's jobs are lost)
            get_logger().exception("step failed", model=model.name)
            self._discard(model)
            return
        for output in outputs:
            self._pass_on(output)

    def _pass_on(self, output: Output) -> None:
        run = self._runs[output.id]
        self._opening.discard(output.id)
        if output.ids:
            run.tick()
        if output.ids or output.text:
            self._publisher.publish(run, [Token(seq=0, ids=output.ids, text=output.text)])
        if output.finish_reason is not None:
            del self._runs[output.id]
            self._publisher.end(run, Outcome(output.finish_reason))

    def _discard(self, model: LoadedModel) -> None:
        """An engine that raised is not trusted again: its runs fail, the model is reloaded."""
        del self._models[model.name]
        for run in [run for run in self._runs.values() if run.request.model == model.name]:
            del self._runs[run.key]
            self._opening.discard(run.key)
            self._publisher.end(run, Outcome(FinishReason.ERROR, GenerationError()))

    def _drop(self, run: Run, outcome: Outcome | None) -> None:
        if self._runs.pop(run.key, None) is not None:
            self._models[run.request.model].engine.cancel(run.key)
            self._opening.discard(run.key)
        elif run in self._line:
            self._line.remove(run)
        elif run in self._waiting[run.request.model]:
            self._waiting[run.request.model].remove(run)
        else:
            return  # has ended
        if outcome is not None:
            self._publisher.end(run, outcome)

    def _load_next(self) -> None:
        """Begin to load a model that runs wait for, if there is room or an idle one can go."""
        if self._loading is not None:
            return
        wanted = self._wanted()
        if wanted is None:
            for name in self._models:
                for run in self._waiting.pop(name, []):
                    self._admit(run)
            return
        if len(self._models) >= self._max_loaded:
            idle = [name for name, model in self._models.items() if not model.engine.has_work]
            if not idle:
                return
            get_logger().info("model unloaded", model=idle[0])
            del self._models[idle[0]]
        self._loading = wanted
        threading.Thread(target=self._load, args=(wanted,), name="loader", daemon=True).start()

    def _wanted(self) -> str | None:
        """The model that runs have waited for longest, of those that are not loaded."""
        waiting = (name for name, runs in self._waiting.items() if runs)
        return next((name for name in waiting if name not in self._models), None)

    def _owes_its_place(self, model: LoadedModel) -> bool:
        """Another model waits for the place of this one, which gets no new runs until then."""
        return (
            self._wanted() is not None
            and len(self._models) >= self._max_loaded
            and next(iter(self._models)) == model.name
        )

    def _load(self, name: str) -> None:
        """On the loader's thread."""
        result: LoadedModel | MiniVaultError
        try:
            result = self._loader(name)
        except MiniVaultError as error:
            result = error
        except Exception as error:  # noqa: BLE001  (a thread's last word must reach the loop)
            get_logger().exception("loading failed", model=name)
            result = ModelUnavailableError(f"Model {name!r} can't be loaded: {error}")
        self._commands.put(_Loaded(name, result))

    def _take_model(self, name: str, result: LoadedModel | MiniVaultError) -> None:
        self._loading = None
        waiting = self._waiting.pop(name, [])
        if isinstance(result, MiniVaultError):
            for run in waiting:
                self._publisher.end(run, Outcome(FinishReason.ERROR, result))
            return
        get_logger().info("model loaded", model=name)
        self._models[name] = result
        self._line.extend(waiting)
        self._open()
