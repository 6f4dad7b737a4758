"""Faults that a test's worker process does to itself, at one exact step of a job's life."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from shared import events, names
from shared.events import Token
from shared.ledger import Ledger
from shared.log import Append, EventLog
from shared.store import Store
from tests.support.jobs import MODEL
from worker.books import Books
from worker.engine.base import Output
from worker.engine.fake import CodePoints, FakeEngine

FILE: Final = "TRAP_FILE"

DEADLY_TO_TOKENIZE: Final = "deadly to tokenize"
DEADLY_TO_PREFILL: Final = "deadly to prefill"
DEADLY_TO_DECODE: Final = "deadly to decode"
"""Prompts of which a worker dies: before it has begun, at the first token, and in the middle."""

CONFUSING_TO_TOKENIZE: Final = "confusing to tokenize: "
CONFUSING_TO_DECODE: Final = "confusing to decode: "
"""Beginnings of prompts that libraries stumble over, and quote."""


class Trap:
    """Lies in wait for the workers in whose environment it is, and springs once."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "trap"

    @property
    def environment(self) -> dict[str, str]:
        return {FILE: str(self._file)}

    def set(
        self, step: str, number: signal.Signals = signal.SIGKILL, *, victim: int | None = None
    ) -> None:
        """Send a signal to `victim`, or to the worker itself, "before" or "after" a step.

        `step` is one of `STEPS` behind one of these words.
        """
        half_written = self._file.with_suffix(".new")
        half_written.write_text(f"{int(number)} {victim or 0} {step}")
        half_written.rename(self._file)

    @property
    def has_sprung(self) -> bool:
        return not self._file.exists()


def lay_trap() -> None:
    """Let this process fall into the trap in its environment, whenever there is one."""
    file = Path(os.environ[FILE])
    for step, (owner, method, applies) in STEPS.items():
        setattr(owner, method, _trapped(file, step, getattr(owner, method), applies))


def _trapped(
    file: Path, step: str, original: Callable[..., Any], applies: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    def trapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if applies(self, args):
            _spring(file, f"before {step}")
        result = original(self, *args, **kwargs)
        # Who takes learns only afterwards whether there was anything.
        if result if step == "take" else applies(self, args):
            _spring(file, f"after {step}")
        return result

    return trapped


def _spring(file: Path, step: str) -> None:
    try:
        number, victim, wanted = file.read_text().split(maxsplit=2)
        if wanted != step:
            return
        file.unlink()
    except FileNotFoundError:  # none is set, or another thread was first
        return
    os.kill(int(victim) or os.getpid(), signal.Signals(int(number)))
    time.sleep(0.05)  # until the signal has arrived, this thread goes no further


def _a_job_waits(ledger: Any, _: Any) -> bool:
    return bool(ledger._redis.zcard(names.order(MODEL)))


def _always(*_: Any) -> bool:
    return True


def _appends(wanted: Callable[[Append], bool]) -> Callable[[Any, tuple[Any, ...]], bool]:
    return lambda _, args: any(wanted(append) for append in args[0])


STEPS: Final[dict[str, tuple[type, str, Callable[[Any, Any], bool]]]] = {
    "take": (Ledger, "take", _a_job_waits),
    "open": (Books, "open", _always),
    "first append": (EventLog, "append_all", _appends(lambda append: append.event.seq == 2)),
    "middle append": (
        EventLog,
        "append_all",
        _appends(lambda append: isinstance(append.event, Token) and append.event.seq > 10),
    ),
    "save": (Store, "save", _always),
    "last append": (
        EventLog,
        "append_all",
        _appends(lambda append: events.is_terminal(append.event)),
    ),
    "close": (Books, "close", _always),
    "finish": (Ledger, "finish", _always),
}


class DeadlyEngine(FakeEngine):
    """Dies of certain prompts, as a native library may."""

    def step(self) -> list[Output]:
        for sequence in self._running.values():
            prompt = CodePoints().decode(sequence.tokens[: sequence.prompt_length])
            if prompt.startswith(CONFUSING_TO_DECODE) and sequence.generated > 3:
                raise ValueError(f"what is {prompt!r}? And {sequence.tokens}?") from KeyError(
                    prompt
                )
            if prompt == DEADLY_TO_PREFILL or (
                prompt == DEADLY_TO_DECODE and sequence.generated == len(prompt) // 2
            ):
                time.sleep(0.3)  # a prefill takes its time; what came before is in the logs
                os._exit(1)
        return super().step()
