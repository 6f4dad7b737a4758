"""How far a model's download and conversion have come."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import filesize
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from cli import console


class ModelProgress:
    """Called by `ensure_model`: a moving bar on a terminal; elsewhere a line per tenth at most."""

    def __init__(self, model: str, note: Callable[[str], None] = console.note) -> None:
        """`note` is told the stages where there is no terminal."""
        self._model = model
        self._note = note
        self._stage = ""
        self._tenths = 0
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            _Bytes(),
            TimeElapsedColumn(),
            console=console.stderr(),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        text = f"{self._model}: {stage}"
        if not self._bars.console.is_terminal:
            self._tell(text, stage, done, total)
        elif stage != self._stage or self._task is None:
            self._bars.start()
            if self._task is not None:
                self._bars.remove_task(self._task)  # a bar that was full does not move again
            self._task = self._bars.add_task(text, completed=done, total=total)
        else:
            self._bars.update(self._task, completed=done, total=total)
        self._stage = stage

    def _tell(self, text: str, stage: str, done: int, total: int | None) -> None:
        tenths = 10 * done // total if total else 0
        if stage != self._stage:
            self._note(text)
        elif tenths > self._tenths:
            self._note(f"{text}, {10 * tenths} % of {filesize.decimal(total or 0)}")
        self._tenths = tenths


class _Bytes(ProgressColumn):
    """Bytes where they are counted, nothing for stages that have none."""

    def __init__(self) -> None:
        super().__init__()
        self._counted = DownloadColumn()

    def render(self, task: Task) -> Text:
        return self._counted.render(task) if task.completed else Text("")
