"""The thread that owns the engines: admits runs, steps, and passes on what comes out."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared.errors import GenerationError, MiniVaultError
from shared.events import FinishReason
from shared.job import now
from shared.logging import get_logger
from worker.engine.base import Output
from worker.metrics import WorkerMetrics
from worker.models import LoadedModel, Loader
from worker.priority import stand_back
from worker.publisher import Publisher, Step
from worker.run import Outcome, Run, loading
from worker.shelf import LoadResult, ModelShelf, Room, Told
from worker.thread import SideThread

_ADMIT_SECONDS: Final = 0.02
_VERDICT_SECONDS: Final = 0.005
"""How often to look for a suspect's first token in the log, while there is nothing else to do."""
_MAX_OPENING: Final = 8
"""Runs between their start and their first token: if this worker dies, few are suspected."""
_SETTLE_SECONDS: Final = 0.002
"""For which the next step may wait until a first token is in its log. Without, that takes longer
than the step where all cores compute."""
_RELAY_SECONDS: Final = 0.0005
"""After which the next step begins, unless others wait for it: in that time an API hears of it, and
its reader has it."""


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
    result: LoadResult


class _Stop:
    pass


@dataclass(frozen=True)
class _Ask:
    """For a model: to be loaded, or to be let go."""

    name: str
    load: bool
    told: Told


_Command: TypeAlias = _Submit | _Drop | _Loaded | _Ask | _Stop


class EngineLoop(SideThread):
    """Steps every engine that has work; models are loaded beside it, so streams run on."""

    def __init__(
        self,
        *,
        loader: Loader,
        publisher: Publisher,
        metrics: WorkerMetrics,
        room: Room,
        accuse: Callable[[Run], None],
        on_crash: Callable[[], None],
    ) -> None:
        """`accuse` is called before a suspect is touched, and returns when that is written down."""
        super().__init__("engine", on_crash)
        self._publisher = publisher
        self._metrics = metrics
        self._accuse = accuse
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self.shelf = ModelShelf(loader, room, self._on_loaded)
        self._arriving: dict[str, str] = {}
        """Models of submitted runs that this thread has not seen yet, by key."""
        self._line: deque[Run] = deque()
        """Runs whose model is loaded, in the order in which they start."""
        self._runs: dict[str, Run] = {}
        """Runs inside an engine, by key."""
        self._opening: set[str] = set()
        """Those of them that have no token from this attempt yet."""
        self._accused: Run | None = None
        """The suspect that was started last, until the log acquits it."""
        self._stopping = False
        self._idle = False
        self._moved_at = time.monotonic()

    def preload(self, name: str) -> None:
        """Load a model before the thread starts.

        Raises:
            ModelUnavailableError: it can't be loaded.
        """
        self.shelf.preload(name)

    def submit(self, run: Run) -> None:
        self._arriving[run.key] = run.request.model
        self._commands.put(_Submit(run))

    def drop(self, run: Run) -> None:
        """Forget a run, in whatever state it is, without ending its log."""
        self._commands.put(_Drop(run, None))

    def cancel(self, run: Run) -> None:
        """End a run as cancelled, unless it has ended; its slot is free before the next step."""
        self._commands.put(_Drop(run, Outcome(FinishReason.CANCELLED)))

    def load(self, name: str, told: Told) -> None:
        """Have a model loaded; `told` is called on this thread, soon if it is there."""
        self._commands.put(_Ask(name, load=True, told=told))

    def unload(self, name: str, told: Told) -> None:
        """Have a model unloaded once its runs have ended; `told` as for `load`."""
        self._commands.put(_Ask(name, load=False, told=told))

    def stop(self) -> list[Run]:
        """End the thread; returns the runs that were not finished."""
        self._commands.put(_Stop())
        self.join()
        return [*self._runs.values(), *self._line, *self.shelf.waiting()]

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.shelf)

    @property
    def coming(self) -> tuple[str, ...]:
        """Models that will be loaded, as far as is known."""
        loaded = self.loaded
        arriving = [name for name in list(self._arriving.values()) if name not in loaded]
        return tuple(dict.fromkeys([*self.shelf.coming, *arriving]))

    @property
    def kv_bytes(self) -> int:
        return sum(model.engine.kv_bytes for model in self.shelf)

    @property
    def kv_usage(self) -> float:
        return max((model.engine.kv_usage for model in self.shelf), default=0.0)

    @property
    def prefix_bytes(self) -> int:
        return sum(model.engine.prefix_bytes for model in self.shelf)

    @property
    def stuck_seconds(self) -> float:
        """Since it has last finished a step or begun anything; 0 while there is nothing to do."""
        return 0.0 if self._idle else time.monotonic() - self._moved_at

    def run(self) -> None:
        stand_back()
        while not self._stopping:
            self._turn()
            self._load_next()

    def _load_next(self) -> None:
        for run in self.shelf.load_next():
            self._admit(run)

    def _on_loaded(self, name: str, loaded: LoadResult) -> None:
        self._commands.put(_Loaded(name, loaded))

    def _turn(self) -> None:
        """In a frame of its own: a model that is unloaded next must not be held by a name here.

        While steps are made, what they bring takes along what else there is to tell.
        """
        busy = [model for model in self.shelf if model.engine.has_work]
        if not busy:
            self._publisher.send()
        self._obey(block=not busy and not self._line)
        for model in busy:
            self._step(model)
        self._open()
        if not busy and self._line:
            time.sleep(_VERDICT_SECONDS)

    def _obey(self, *, block: bool) -> None:
        """Carry out the commands that wait; if there is nothing to compute, wait for one.

        Not all of them at once where streams run: long prompts take their time to tokenize.
        """
        until = time.monotonic() + _ADMIT_SECONDS
        while block or (not self._commands.empty() and time.monotonic() < until):
            self._idle = block
            command = self._commands.get()
            self._idle = block = False
            self._moved_at = time.monotonic()
            match command:
                case _Submit(run):
                    self._admit(run)
                    del self._arriving[run.key]
                case _Drop(run, outcome):
                    self._drop(run, outcome)
                case _Loaded(name, result):
                    self._take_model(name, result)
                case _Ask(name, load, told):
                    (self.shelf.ask if load else self.shelf.let_go)(name, told)
                case _Stop():
                    self._stopping = True
                    return

    def _admit(self, run: Run) -> None:
        model = self.shelf.get(run.request.model)
        if model is None:
            if run.suspect:  # loading can kill, too
                self._accuse(run)
            self._publisher.publish(run, [loading(run)])
            self.shelf.wait(run)
            self._load_next()
            return
        if self.shelf.takes_no_more(model):
            self.shelf.wait(run)
            return
        self._line.append(run)
        self._open()

    def _open(self) -> None:
        """Start runs that wait in line, while few enough are being started."""
        while self._line and self._may_open(self._line[0]):
            run = self._line.popleft()
            model = self.shelf.get(run.request.model)
            if model is None:  # unloaded meanwhile
                self._admit(run)
            else:
                self._enter(model, run)

    def _may_open(self, run: Run) -> bool:
        """Suspects open alone: if the worker dies, it is clear of which one.

        That takes until the log has their first token: another worker looks there for it.
        """
        if self._accused is not None and not self._accused.opened:
            return False
        if run.suspect:
            return not self._opening
        return len(self._opening) < _MAX_OPENING

    def _enter(self, model: LoadedModel, run: Run) -> None:
        self.shelf.touch(model)
        if run.suspect:
            self._accuse(run)
            self._accused = run
        try:
            run.encoded(model.prompts.encode(run.request))
            opening = run.opening()
            model.engine.add(run.for_engine())
        except MiniVaultError as error:
            self._publisher.end(run, Outcome(FinishReason.ERROR, error))
            return
        except Exception:  # a tokenizer may stumble over one prompt, not over all
            run.logger.exception("prompt failed")
            self._publisher.end(run, Outcome(FinishReason.ERROR, GenerationError()))
            return
        self._runs[run.key] = run
        self._opening.add(run.key)
        self._metrics.begun(run)
        self._publisher.publish(run, opening)

    def _step(self, model: LoadedModel) -> None:
        began = time.perf_counter()
        try:
            outputs = model.engine.step()
        except Exception:  # noqa: BLE001  (whatever it was, only this engine's jobs are lost)
            get_logger().exception("step failed", model=model.name)
            self._discard(model)
            return
        seconds = time.perf_counter() - began
        self._moved_at = time.monotonic()
        opening = len(self._opening)
        for output in outputs:
            self._pass_on(output)
        self._publisher.send(Step(model.name, seconds, now()))
        # Of a burst only the last ones: those still to open wait for the next step.
        if len(self._opening) < opening and not (self._opening or self._line):
            self._publisher.settle(_SETTLE_SECONDS)
            if opening >= len(self._runs):
                time.sleep(_RELAY_SECONDS)

    def _pass_on(self, output: Output) -> None:
        run = self._runs[output.id]
        self._opening.discard(output.id)
        if output.finish_reason is not None:
            del self._runs[output.id]
        self._publisher.pass_on(run, output)

    def _discard(self, model: LoadedModel) -> None:
        """An engine that raised is not trusted again: its runs fail, the model is reloaded."""
        self.shelf.discard(model)
        for run in [run for run in self._runs.values() if run.request.model == model.name]:
            del self._runs[run.key]
            self._opening.discard(run.key)
            self._publisher.end(run, Outcome(FinishReason.ERROR, GenerationError()))

    def _drop(self, run: Run, outcome: Outcome | None) -> None:
        if self._runs.pop(run.key, None) is not None:
            model = self.shelf.get(run.request.model)
            assert model is not None  # it is busy
            model.engine.cancel(run.key)
            self._opening.discard(run.key)
        elif run in self._line:
            self._line.remove(run)
        elif not self.shelf.forget(run):
            return  # has ended
        if outcome is not None:
            self._publisher.end(run, outcome)

    def _take_model(self, name: str, loaded: LoadResult) -> None:
        waiting = self.shelf.put(name, loaded)
        if isinstance(loaded, MiniVaultError):
            for run in waiting:
                self._publisher.end(run, Outcome(FinishReason.ERROR, loaded))
            return
        self._line.extend(waiting)
        self._open()
